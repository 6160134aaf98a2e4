"""All kinds of layout, in one table. Who needs them by kind imports LAYOUT from here."""

from __future__ import annotations

from sightline.model.layout_kinds.merged_layout import MergedLayout
from sightline.model.layout_kinds.rows_layout import RowsLayout
from sightline.model.layout_kinds.separated_layout import SeparatedLayout
from sightline.model.layout_kinds.tagged_layout import TaggedLayout
from sightline.model.layout_kinds.wrapped_layout import WrappedLayout
from sightline.model.layouts import LAYOUT

for _layout in (MergedLayout, SeparatedLayout, TaggedLayout, RowsLayout, WrappedLayout):
    LAYOUT.add(_layout)
