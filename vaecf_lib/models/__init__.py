"""The systems of the five papers, and two that came after, one file each."""

from .awae import AWAE
from .base import Model, Phase
from .hvamp import HVamp
from .hy_vae import HyVAE
from .mult_vae import MultDAE, MultVAE
from .rec_vae import RecVAE
from .sivae import SIVAE
from .study import StudyVAE
from .vae_bmf import VAEBMF
from .vaegan import VAEGAN
from .vasp import VASP

__all__ = [
    "AWAE",
    "SIVAE",
    "VAEBMF",
    "VAEGAN",
    "VASP",
    "HVamp",
    "HyVAE",
    "Model",
    "MultDAE",
    "MultVAE",
    "Phase",
    "RecVAE",
    "StudyVAE",
]
