"""`sightline data apply`, `dedup`, `tile` and `mix`: operators over a store without a recipe, and what a mixture of stores comes to."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sightline.cli.data_verbs import engines
from sightline.cli.output import write_json
from sightline.errors import Problem, Refused

if TYPE_CHECKING:
    from sightline.kinds import Config


def apply(parser: ArgumentParser) -> None:
    """Arguments of `data apply`."""
    _stores(parser)
    parser.add_argument("steps", metavar="STEPS", help="YAML file with `then: [OPERATOR, ..]` as in a recipe, and maybe `seed`")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="values over those of the file: then.0.within=2")
    _common(parser, _apply)


def dedup(parser: ArgumentParser) -> None:
    """Arguments of `data dedup`."""
    _stores(parser)
    parser.add_argument(
        "--pictures", choices=("bytes", "pixels", "near"), help="when two pictures are the same: equal files, equal pixels, near perceptual hashes (default)"
    )
    parser.add_argument("--within", type=int, metavar="BITS", help="near: bits of 64 by which both hashes may differ (default 4)")
    parser.add_argument("--upright", action="store_true", help="near: compare as they are, not in eight orientations")
    parser.add_argument("--texts", type=float, metavar="JACCARD", help="similarity from which rows without pictures are the same (default 0.8)")
    parser.add_argument("--conflicts", choices=("first", "none"), help="equal questions with different answers: keep the first, or none (default)")
    parser.add_argument("--prefer", nargs="+", metavar="SOURCE", help="sources whose rows are kept before others, the most trusted first")
    parser.add_argument("--protect", nargs="*", metavar="SPLIT", help="splits that keep what training shares with them (default test val)")
    parser.add_argument("--semantic", metavar="MODEL", help="also set aside what this model's picture vectors cannot tell apart (SemDeDup)")
    parser.add_argument("--epsilon", type=float, metavar="X", help="semantic: rows go above a cosine of 1 - X (default 0.05)")
    _common(parser, _dedup)


def tile(parser: ArgumentParser) -> None:
    """Arguments of `data tile`."""
    parser.add_argument("store", metavar="STORE|RASTER", type=Path, help="folder of a store; or a GeoTIFF of any size, or a folder of them (extra `geo`)")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of the store to write")
    parser.add_argument("--window", type=int, metavar="PX", help="side of a tile (default 1024)")
    parser.add_argument("--gap", type=int, metavar="PX", help="overlap of neighbouring tiles (default 200)")
    parser.add_argument("--rate", type=float, metavar="X", help="scale the picture by this first (default 1)")
    parser.add_argument("--kept", type=float, metavar="SHARE", help="a cut object still counts above this share of its area (default 0.7)")
    parser.add_argument("--crowded", type=int, metavar="N", help="cut a window again in which one label has more objects than this")
    parser.add_argument("--empty", action="store_true", default=None, help="keep tiles without regions")
    rasters = parser.add_argument_group("rasters")
    rasters.add_argument("--vectors", type=Path, metavar="FILE", help="GeoJSON file or Shapefile of outlines (default: the file of each raster's stem)")
    rasters.add_argument("--label", metavar="PROPERTY", help="property of an outline that holds its label")
    rasters.add_argument("--common-label", metavar="LABEL", help="label of all outlines, without --label (default object)")
    rasters.add_argument("--shapes", choices=("rotated", "box", "polygon", "mask"), help="what outlines become (default rotated)")
    rasters.add_argument("--bands", nargs="+", metavar="BAND", help="names of all bands of the files, in order (default: as the files say)")
    rasters.add_argument("--take", nargs="+", metavar="BAND", help="bands that the tiles have (default all)")
    rasters.add_argument("--empty-share", type=float, metavar="SHARE", help="keep so large a share of the tiles without regions (default 0)")
    rasters.add_argument("--nodata", type=float, metavar="SHARE", help="drop tiles of which more than this holds no data (default 0.5)")
    rasters.add_argument("--split", nargs="+", default=[], metavar="NAME=SHARE", help="shares of the scenes: train=0.8 val=0.2; a scene's tiles stay together")
    rasters.add_argument("--licence", metavar="TEXT", help="licence of the tiles")
    _common(parser, _tile)


def mix(parser: ArgumentParser) -> None:
    """Arguments of `data mix`."""
    parser.add_argument("stores", metavar="NAME=STORE", nargs="+", help="stores by name; NAME:WEIGHT=STORE gives a weight")
    parser.add_argument("--method", choices=("proportional", "equal", "square-root", "temperature", "explicit"), default="proportional", help="shares by size")
    parser.add_argument("--temperature", type=float, default=2.0, metavar="T", help="for `temperature`: shares are sizes to the power 1/T (default 2)")
    parser.add_argument("--rows", type=int, metavar="N", help="rows of an epoch (default: all rows of all stores)")
    parser.add_argument("--most", nargs="*", default=[], metavar="NAME=SHARE", help="largest share of a store; `written` bounds text that models wrote")
    parser.add_argument("--not-above", nargs="*", default=[], metavar="NAME=OTHER", help="a store may not have a larger share than another: web=tiles")
    parser.add_argument("--json", action="store_true", help="the plan as JSON")
    parser.set_defaults(action=_mix)


def _stores(parser: ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", type=Path, help="folder of a store")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder of the store to write")


def _common(parser: ArgumentParser, action: Any) -> None:
    parser.add_argument("--seed", type=int, default=0, help="everything random follows from it (default 0)")
    engines(parser)
    parser.add_argument("--json", action="store_true", help="the counts as JSON")
    parser.set_defaults(action=action)


def _apply(arguments: Namespace) -> int:
    from sightline.data_steps import load_steps

    steps = load_steps(arguments.steps, arguments.overrides)
    return run_operators(arguments, steps.then, steps.seed if steps.seed is not None else arguments.seed)


def _dedup(arguments: Namespace) -> int:
    from sightline.data.dedup import Dedup, SemanticDedup

    names = ("pictures", "within", "texts", "conflicts", "prefer", "protect")
    operators: list[Config] = [checked(Dedup, "data dedup", _said(arguments, names) | ({"orientations": False} if arguments.upright else {}))]
    if arguments.semantic:
        operators.append(checked(SemanticDedup, "data dedup", {"with": arguments.semantic} | _said(arguments, ("epsilon",))))
    return run_operators(arguments, operators, arguments.seed)


_OF_RASTERS = ("vectors", "label", "common_label", "shapes", "bands", "take", "nodata", "empty_share", "split", "licence")


def _tile(arguments: Namespace) -> int:
    from sightline.data.geo_tiling import RasterTiles, described, tile_rasters
    from sightline.data.tiling_annotations import Tile

    rasters = arguments.store.exists() and not (arguments.store / "lineage.json").is_file()
    stray = [f"--{name.replace('_', '-')}" for name in (("rate", "crowded") if rasters else _OF_RASTERS) if getattr(arguments, name)]
    if stray:
        found, allowed = ", ".join(stray), "options of rasters for rasters, and of stores for stores"
        raise Refused(Problem(code="usage/arguments", place="data tile", found=found, allowed=allowed, fix="sightline data tile --help"))
    if not rasters:
        return run_operators(arguments, [checked(Tile, "data tile", _said(arguments, ("window", "gap", "rate", "kept", "crowded", "empty")))], arguments.seed)
    from sightline.data.engine import engine_of

    said = _said(arguments, ("window", "gap", "kept", "label", "common_label", "shapes", "bands", "take", "nodata", "licence", "seed"))
    said["empty"] = 1.0 if arguments.empty else arguments.empty_share or 0.0
    said["split"] = {name: _number(share) for name, share in (_named(pair, "data tile") for pair in arguments.split)}
    config = checked(RasterTiles, "data tile", said)
    assert isinstance(config, RasterTiles)
    engine = engine_of(arguments.engine, arguments.workers, arguments.ray_address)
    tiled = tile_rasters(arguments.store, arguments.out, config, vectors=arguments.vectors, engine=engine, fresh=arguments.fresh)
    if arguments.json:
        write_json({"store": str(arguments.out), **tiled.record()})
    else:
        print(f"{described(tiled)}\n{arguments.out}: {tiled.tiles} kept")
    return 0


def _said(arguments: Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}


def checked(cls: type[Config], verb: str, said: dict[str, Any]) -> Config:
    """An operator from arguments. Raises Refused with every value that it does not take."""
    from pydantic import ValidationError

    try:
        return cls.model_validate(said)
    except ValidationError as error:
        found = [f"{'.'.join(map(str, one['loc'])) or cls.__name__}: {one['msg']}" for one in error.errors()]
        raise Refused(Problem(code="usage/arguments", place=verb, found=one, allowed="see --help", fix=f"sightline {verb} --help") for one in found) from None


def run_operators(arguments: Namespace, operators: list[Config], seed: int) -> int:
    """Apply operators to the store of `arguments` and tell what became of its rows."""
    from sightline.data.engine import engine_of
    from sightline.data_steps import apply_steps

    engine = engine_of(arguments.engine, arguments.workers, arguments.ray_address)
    counts = apply_steps(arguments.store, operators, arguments.out, seed=seed, engine=engine, fresh=arguments.fresh)
    if arguments.json:
        write_json({"store": str(arguments.out), **counts})
    else:
        for one in counts["operators"]:
            print(f"  {one['operator']}: {one['rows_in']} rows in, {one['kept']} kept, {one['replaced']} replaced, {one['quarantined']} quarantined")
        for rule, count in counts["rules"].items():
            print(f"    {rule}: {count}")
        print(f"{arguments.out}: " + ", ".join(f"{count} {name}" for name, count in counts["written"].items()))
    return 0


def _mix(arguments: Namespace) -> int:
    from dataclasses import asdict

    from sightline.data.mixing import MixConfig, mixture_text, plan_mixture, size_of
    from sightline.samples.store import Store

    named = [_named(pair, "data mix") for pair in arguments.stores]
    weights = {name.partition(":")[0]: _number(name.partition(":")[2] or "1") for name, _ in named}
    most = {name: _number(share) for name, share in (_named(pair, "--most") for pair in arguments.most)}
    said = {"method": arguments.method, "temperature": arguments.temperature, "rows": arguments.rows, "most": most}
    config = checked(MixConfig, "data mix", said | {"not_above": dict(_named(pair, "--not-above") for pair in arguments.not_above)})
    assert isinstance(config, MixConfig)
    sizes = [size_of(name.partition(":")[0], Store.open(path), config) for name, path in named]
    planned = plan_mixture(sizes, config, weights)
    if arguments.json:
        write_json({"data": [asdict(one) for one in planned]})
    else:
        print(mixture_text(planned))
    return 0


def _named(pair: str, place: str) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    if not (name and equals and value):
        raise Refused(Problem(code="usage/arguments", place=place, found=repr(pair), allowed="NAME=VALUE", fix="sightline data mix --help"))
    return name, value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise Refused(Problem(code="usage/arguments", place="data mix", found=repr(text), allowed="a number", fix="sightline data mix --help")) from None
