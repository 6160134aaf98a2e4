"""The table of readers: every format that data sets are published in, by its kind."""

from __future__ import annotations

from sightline.data.readers.alpaca import Alpaca
from sightline.data.readers.capsfusion import Capsfusion
from sightline.data.readers.caption_csv import CaptionCsv
from sightline.data.readers.caption_list import CaptionList
from sightline.data.readers.caption_map import CaptionMap
from sightline.data.readers.cauldron import Cauldron
from sightline.data.readers.change_pairs import ChangePairs
from sightline.data.readers.class_folders import ClassFolders
from sightline.data.readers.coco import Coco
from sightline.data.readers.coco_karpathy_flat import CocoKarpathyFlat
from sightline.data.readers.coco_panoptic import CocoPanoptic
from sightline.data.readers.dota import Dota
from sightline.data.readers.dota_results import DotaResults
from sightline.data.readers.easy_vqa import EasyVqa
from sightline.data.readers.flickr_captions import FlickrCaptions
from sightline.data.readers.geochat import GeoChat
from sightline.data.readers.geochat_bench import GeoChatBench
from sightline.data.readers.geotiff import GeoTiff
from sightline.data.readers.gqa import Gqa
from sightline.data.readers.icdar import Icdar
from sightline.data.readers.karpathy_captions import KarpathyCaptions
from sightline.data.readers.label_masks import LabelMasks
from sightline.data.readers.llava_json import LlavaJson
from sightline.data.readers.mmc4 import Mmc4
from sightline.data.readers.mme_answers import MmeAnswers
from sightline.data.readers.nlvr import Nlvr
from sightline.data.readers.nwpu_captions import NwpuCaptions
from sightline.data.readers.obelics import Obelics
from sightline.data.readers.ocr_vqa import OcrVqa
from sightline.data.readers.openai_messages import OpenaiMessages
from sightline.data.readers.pixmo_captions import PixmoCaptions
from sightline.data.readers.pixmo_points import PixmoPoints
from sightline.data.readers.refgpt import Refgpt
from sightline.data.readers.rsivqa import Rsivqa
from sightline.data.readers.rsvqa import Rsvqa
from sightline.data.readers.science_qa import ScienceQa
from sightline.data.readers.self_instruct import SelfInstruct
from sightline.data.readers.sroie import Sroie
from sightline.data.readers.textcaps import Textcaps
from sightline.data.readers.textvqa import Textvqa
from sightline.data.readers.visual_genome import VisualGenome
from sightline.data.readers.voc_xml import VocXml
from sightline.data.readers.vqa_rad import VqaRad
from sightline.data.readers.vqa_v2 import VqaV2
from sightline.data.readers.webdataset import Webdataset
from sightline.kinds import Family

READER = Family("reader")
"""Formats by kind. A kind of a third party is a subclass of `Reader`."""
_CAPTIONS = (KarpathyCaptions, CaptionMap, NwpuCaptions, CocoKarpathyFlat, FlickrCaptions, CaptionCsv, CaptionList, Textcaps, PixmoCaptions, Capsfusion)
_DIALOGUES = (LlavaJson, OpenaiMessages, GeoChat, Alpaca, Refgpt, SelfInstruct)
_QUESTIONS = (VqaV2, Gqa, OcrVqa, Textvqa, ScienceQa, Rsvqa, Rsivqa, VqaRad, Nlvr, EasyVqa, VisualGenome, PixmoPoints, GeoChatBench, MmeAnswers)
_REGIONS = (Coco, CocoPanoptic, Dota, DotaResults, VocXml, LabelMasks, ChangePairs, ClassFolders, Icdar, Sroie, GeoTiff)
_SHARDS = (Webdataset, Cauldron, Obelics, Mmc4)
for _reader in (*_CAPTIONS, *_DIALOGUES, *_QUESTIONS, *_REGIONS, *_SHARDS):
    READER.add(_reader)
