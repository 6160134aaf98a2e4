"""TIFF of any bands and depths: what is written is read back, rasterio reads the same, and what is hostile is refused with words."""

from __future__ import annotations

import struct
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sightline.errors import Refused
from sightline.samples import geo_tiff, pictures
from sightline.samples.geo_rasters import opened_raster
from sightline.samples.geo_tiff import LeftToRasterio, NotRead, decode_tiff, encode_tiff, is_tiff, layout
from sightline.samples.pictures import decode, describe, encoded, pixels, rgb_pixels
from sightline.samples.sample import Geo

rasterio = pytest.importorskip("rasterio")
NAMES = ("red", "green", "blue", "nir", "swir", "thermal")
GEO = Geo(crs="EPSG:32650", affine=(0.5, 0.0, 500000.0, 0.0, -0.5, 4000000.0))
TURNED = Geo(crs="EPSG:4326", affine=(1e-5, 2e-6, 116.0, 1e-6, -1e-5, 40.0))


def noise(depth: str, *shape: int) -> np.ndarray:
    values = np.random.default_rng(sum(shape)).random(shape)
    return (values * {"uint8": 255, "uint16": 65535, "float32": 1}[depth]).astype(depth)


def written(array: np.ndarray, **options: Any) -> bytes:
    """A GeoTIFF of rasterio."""
    height, width, count = array.shape
    descriptions = options.pop("descriptions", None)
    with warnings.catch_warnings(), rasterio.io.MemoryFile() as memory:
        warnings.simplefilter("ignore")
        with memory.open(driver="GTiff", width=width, height=height, count=count, dtype=array.dtype.name, **options) as opened:
            opened.write(array.transpose(2, 0, 1))
            if descriptions:
                opened.descriptions = descriptions
        return memory.read()


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(("uint8", "uint16", "float32")),
    st.integers(1, 6),
    st.integers(1, 90),
    st.integers(1, 300),
    st.sampled_from((None, GEO, TURNED)),
    st.sampled_from((None, 0.0, -9999.0)),
)
def test_what_is_written_is_read_back_and_rasterio_reads_the_same(
    depth: str, count: int, height: int, width: int, geo: Geo | None, nodata: float | None
) -> None:
    array = noise(depth, height, width, count)
    names = NAMES[:count] if count > 2 else ("nir", "swir")[:count]
    data = encode_tiff(array, names, geo, nodata)
    known = layout(data)
    assert is_tiff(data) and data == encode_tiff(array, names, geo, nodata)
    assert (known.width, known.height, known.bands, known.depth, known.geo, known.nodata) == (width, height, names, depth, geo, nodata)
    assert np.array_equal(decode_tiff(data, known), array)
    with opened_raster(data) as raster:
        assert np.array_equal(raster.read(0, 0, width, height), array)
        assert (raster.bands, raster.depth) == (names, depth)
        assert (raster.geo is None) == (geo is None) and (geo is None or (np.allclose(raster.geo.affine, geo.affine, rtol=1e-12) and raster.geo.crs == geo.crs))


@pytest.mark.parametrize("depth", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("count", [1, 3, 4, 5])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tiled": True, "blockxsize": 32, "blockysize": 16},
        {"interleave": "pixel"},
        {"compress": "deflate", "predictor": 2},
        {"compress": "deflate", "tiled": True, "blockxsize": 64, "blockysize": 32, "interleave": "band"},
        {"BIGTIFF": "YES"},
        {"ENDIANNESS": "BIG", "compress": "deflate", "predictor": 2},
        {"compress": "lzw"},
        {"compress": "zstd"},
    ],
)
def test_files_of_gdal_are_read_with_their_bands_and_their_place(depth: str, count: int, options: dict[str, Any]) -> None:
    options = options | ({"predictor": 1} if depth == "float32" and "predictor" in options else {})
    array = noise(depth, 53, 71, count)
    data = written(array, crs="EPSG:32650", transform=rasterio.Affine(*GEO.affine), **options)
    known = layout(data)
    with opened_raster(data) as raster:
        assert (known.bands, known.geo, known.depth) == (raster.bands, raster.geo, raster.depth) and known.geo == GEO
    if options.get("compress") in ("lzw", "zstd"):
        with pytest.raises(LeftToRasterio, match="compression"):
            decode_tiff(data, known)
    else:
        assert np.array_equal(decode_tiff(data, known), array)
    if known.beyond_colours:
        assert np.array_equal(pixels(describe(data, "a.tif", "here")), array)


def test_alpha_is_no_near_infrared_unless_its_name_is_said() -> None:
    array = noise("uint8", 20, 30, 4)
    array[..., 3] = 255
    by_default = describe(written(array), "a.tif", "here")
    assert by_default.bands == ("red", "green", "blue") and np.array_equal(pixels(by_default), array[..., :3])
    assert np.array_equal(pixels(describe(written(array, photometric="RGB", alpha="unspecified"), "a.tif", "here")), array)
    for picture in (
        describe(written(array), "a.tif", "here", ("red", "green", "blue", "nir")),
        describe(written(array, descriptions=("Red", "Green", "Blue", "Near Infrared")), "a.tif", "here"),
    ):
        assert picture.bands == ("red", "green", "blue", "nir") and np.array_equal(pixels(picture), array)
        assert np.array_equal(rgb_pixels(picture), array[..., :3])


def test_png_with_alpha_is_colours_on_white_unless_its_bands_are_named() -> None:
    import io

    from PIL import Image

    array = noise("uint8", 20, 30, 4)
    stream = io.BytesIO()
    Image.fromarray(array, "RGBA").save(stream, "PNG")
    plain = describe(stream.getvalue(), "a.png", "here")
    assert plain.bands == ("red", "green", "blue") and pixels(plain).shape == (20, 30, 3) and not np.array_equal(pixels(plain), array[..., :3])
    named = describe(stream.getvalue(), "a.png", "here", ("red", "green", "blue", "nir"))
    assert np.array_equal(pixels(named), array)
    with pytest.raises(Refused, match="samples/bands at here\n  found:   pixel mode RGBA, and names for 5 bands"):
        describe(stream.getvalue(), "a.png", "here", ("a", "b", "c", "d", "e"))


def test_unnamed_bands_have_numbers_and_names_for_another_number_are_refused() -> None:
    data = written(noise("uint16", 20, 30, 4))
    assert describe(data, "a.tif", "here").bands == ("band_1", "band_2", "band_3", "band_4")
    with pytest.raises(Refused, match="samples/bands at here\n  found:   4 bands, and names for 3"):
        describe(data, "a.tif", "here", ("red", "green", "blue"))


def test_sixteen_bits_are_stretched_for_eyes_and_kept_for_models() -> None:
    array = (noise("uint16", 40, 50, 4) // 32).astype(np.uint16)
    picture = describe(encode_tiff(array, NAMES[:4]), "a.tif", "here")
    assert picture.depth == "uint16" and np.array_equal(pixels(picture), array)
    shown = rgb_pixels(picture)
    assert shown.dtype == np.uint8 and shown.shape == (40, 50, 3) and shown.min() == 0 and shown.max() == 255
    assert np.array_equal(decode(encode_tiff(array, NAMES[:4]), "here"), shown)


def test_numbers_that_are_not_finite_are_refused_with_their_count() -> None:
    array = noise("float32", 20, 30, 2)
    array[0, :5, 0] = np.nan
    with pytest.raises(Refused, match="samples/not-finite at here\n  found:   5 of 1200 numbers"):
        describe(encode_tiff(array, ("vv", "vh")), "a.tif", "here")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_that_of_pillow(orientation: int) -> None:
    import io

    from PIL import Image

    array = noise("uint8", 20, 30, 3)
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "TIFF", tiffinfo={274: orientation})
    known = pixels(describe(stream.getvalue(), "a.tif", "here"))
    named = describe(stream.getvalue(), "a.tif", "here", ("nir", "red", "green"))
    assert np.array_equal(pixels(named), known) and (named.width, named.height) == (known.shape[1], known.shape[0])


def test_colours_of_eight_bits_are_stored_as_png_and_others_as_tiff() -> None:
    array = noise("uint8", 12, 15, 3)
    assert encoded(array).startswith(b"\x89PNG") and np.array_equal(pixels(describe(encoded(array), "a", "here")), array)
    assert is_tiff(encoded(array, ("nir", "red", "green"))) and is_tiff(encoded(array.astype(np.uint16)))


def test_without_rasterio_a_foreign_compression_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    data = written(noise("uint16", 20, 30, 4), compress="lzw")
    monkeypatch.setattr(pictures, "there", lambda: False)
    with pytest.raises(Refused, match=r"samples/no-rasterio at here\n  found:   compression 5\n.*\n  fix:     pip install 'sightline\[geo\]'"):
        describe(data, "a.tif", "here")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_bytes_that_were_changed_or_cut_off_are_read_or_refused(data: st.DataObject) -> None:
    whole = encode_tiff(noise("uint16", 30, 40, 4), NAMES[:4], GEO)
    broken = bytearray(whole[: data.draw(st.integers(8, len(whole)))])
    for _ in range(data.draw(st.integers(0, 4))):
        broken[data.draw(st.integers(4, min(len(broken), 600) - 1 if len(broken) > 5 else 4))] = data.draw(st.integers(0, 255))
    try:
        found = decode_tiff(bytes(broken), layout(bytes(broken)))
    except NotRead:
        return
    assert found.ndim == 3


def test_a_truncated_file_is_refused() -> None:
    whole = encode_tiff(noise("uint16", 200, 300, 4), NAMES[:4])
    with pytest.raises(Refused, match="samples/broken-picture at here\n  found:   block"):
        describe(whole[:-1000], "a.tif", "here")


def test_a_header_that_claims_gigabytes_is_refused_before_anything_is_unpacked() -> None:
    whole = bytearray(encode_tiff(noise("uint16", 20, 30, 4), NAMES[:4]))
    for tag in (256, 257):
        at = whole.index(struct.pack("<HHI", tag, 4, 1))
        whole[at + 8 : at + 12] = struct.pack("<I", 13_000)
    with pytest.raises(NotRead, match="13000x13000 px of 4 bands, uint16: over"):
        decode_tiff(bytes(whole), layout(bytes(whole)))
    with pytest.raises(Refused, match="samples/broken-picture"):
        describe(bytes(whole), "a.tif", "here")


def test_a_deflated_bomb_is_unpacked_to_the_size_of_its_block_only() -> None:
    import zlib

    bomb = zlib.compress(bytes(1 << 26), 9)
    assert len(geo_tiff._inflated(bomb, 1000)) == 1000
