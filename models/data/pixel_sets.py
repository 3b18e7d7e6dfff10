"""The data sets that are seen as pixels, by the names that recipes call them."""

from typing import Annotated

from pydantic import Field

from models.data.asked import Asked
from models.data.kinetics import KineticsConfig, load_kinetics
from models.data.msrvtt_pixels import MSRVTTPixelsConfig, load_msrvtt_pixels
from models.data.msrvtt_qa import MSRVTTQAConfig, load_msrvtt_qa
from models.data.msvd_qa import MSVDQAConfig, load_msvd_qa
from models.data.pixels.sources import FrameSource, open_frames
from models.data.tgif_qa import TGIFQAConfig, load_tgif_qa

PixelDataConfig = Annotated[
    MSRVTTPixelsConfig | MSRVTTQAConfig | MSVDQAConfig | TGIFQAConfig | KineticsConfig, Field(discriminator="name")
]


def load_asked(config: PixelDataConfig) -> tuple[Asked, FrameSource]:
    """What is asked, and where the frames are.

    Raises:
        UserError: a file is missing or malformed, or videos have no frames and may not be left out.
    """
    source = open_frames(config.place(config.frames))
    has = source.__contains__
    match config:
        case MSRVTTPixelsConfig():
            return load_msrvtt_pixels(config, has), source
        case MSRVTTQAConfig():
            return load_msrvtt_qa(config, has), source
        case MSVDQAConfig():
            return load_msvd_qa(config, has), source
        case TGIFQAConfig():
            return load_tgif_qa(config, has), source
        case KineticsConfig():
            return load_kinetics(config, has), source
