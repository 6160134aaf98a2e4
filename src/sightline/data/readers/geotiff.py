"""Georeferenced rasters as whole pictures of all their bands, each with the outlines of a GeoJSON file or Shapefile.

    scenes/a.tif  scenes/a.geojson     outlines in longitude and latitude, or in a system that the file names
    scenes/b.tif  scenes/b.shp .shx .dbf .prj

A raster becomes one sample without turns; polygons become its regions, in pixels. Rasters that are too large for a picture are cut by `sightline data tile`, window by window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from sightline.data.geo_tiling import RASTERS, rasters_at
from sightline.data.geo_vectors import OutlineConfig, Placed, read_vectors, vectors_beside
from sightline.data.readers.files import files_below, refuse
from sightline.data.readers.reader import SPLITS, Reader, Row
from sightline.data.tiling_annotations import Window
from sightline.errors import Problem, Refused
from sightline.samples.geo_rasters import opened_raster, there
from sightline.samples.sample import Origin, Picture, Sample


class GeoTiff(OutlineConfig, Reader):
    """GeoTIFF files with polygons beside them."""

    kind: Literal["geotiff"] = "geotiff"
    vectors: str | None = None
    """GeoJSON file or Shapefile with the outlines of all rasters, below the folder or as an absolute path; None: of each raster the file of its stem."""
    split: list[str] | None = None
    """Splits to read, where folders train, val and test stand above the rasters; all when absent."""

    def recognise(self, path: Path) -> tuple[float, str] | None:
        """Rasters with a GeoJSON file or Shapefile of their stem beside them."""
        found = self._pairs(path)
        return (0.9, f"{len(found)} rasters with outlines beside them, such as {found[0][1].name}") if found else None

    def annotated(self, path: Path) -> frozenset[Path]:
        """The files of outlines."""
        return frozenset(vectors for _, vectors in self._pairs(path))

    def _pairs(self, path: Path) -> list[tuple[Path, Path]]:
        rasters = [path] if path.is_file() and path.suffix.lower() in RASTERS else [path / name for name in files_below(path, RASTERS)] if path.is_dir() else []
        return [(raster, vectors) for raster in rasters if (vectors := vectors_beside(raster)) is not None]

    def rows(self, path: Path) -> Iterator[Row | Problem]:
        """One row per raster."""
        rasters = rasters_at(path)
        base = path.parent if path.is_file() else path
        common = None if self.vectors is None else base / self.vectors
        if common is not None and not common.is_file():
            raise Refused(refuse("no-vectors", str(common), "no such file", "a GeoJSON file or Shapefile", "correct `vectors`"))
        for raster in rasters:
            name = raster.relative_to(base)
            split = next((SPLITS[part.lower()] for part in name.parts[:-1] if part.lower() in SPLITS), None)
            if self.split is not None and split not in self.split:
                continue
            vectors = common or vectors_beside(raster)
            data = {"split": split} if split else {}
            data |= {"vectors": str(vectors)} if vectors else {}
            yield Row(id=name.as_posix(), place=str(raster), number=name.as_posix(), pictures=(str(raster),), data=data)

    def make(self, row: Row, pictures: tuple[Picture, ...], origin: Origin) -> list[Sample | Problem]:
        """The raster with its outlines in px; outlines that lie beside it are counted."""
        [picture] = pictures
        attributes = {"split": row.data["split"]} if "split" in row.data else {}
        sample = Sample(id=row.id, pictures=pictures, attributes=attributes, origin=origin)
        if "vectors" not in row.data:
            return [sample]
        try:
            if picture.geo is None and there():
                # a coordinate system without an EPSG number
                with opened_raster(Path(row.place), bands=self.bands) as raster:
                    picture = replace(picture, geo=raster.geo)
            if picture.geo is None:
                found, fix = "a picture without a georeference, and outlines on the map", "gdal_edit.py -a_srs EPSG:CODE -a_ullr ..."
                return [refuse("no-georeference", row.place, found, "a GeoTIFF that says where it lies, with an EPSG number or the extra `geo`", fix)]
            placed = Placed(read_vectors(Path(row.data["vectors"]), self), picture.geo)
            regions = placed.regions(Window(left=0, top=0, width=picture.width, height=picture.height, rate=1.0), self)
        except Refused as refused:
            return list(refused.problems)
        beside = placed.outside(picture.width, picture.height)
        made: list[Sample | Problem] = [replace(sample, pictures=(picture,), annotations=tuple(regions))]
        if beside:
            found = f"{beside} outlines of {row.data['vectors']} lie beside it"
            made.append(Problem(code="data/outlines-outside", place=row.place, found=found, allowed="outlines on the raster", severity="warn"))
        return made
