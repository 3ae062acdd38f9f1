"""The systems of the five papers, one file each."""

from .base import Model, Phase
from .mult_vae import MultDAE, MultVAE
from .rec_vae import RecVAE

__all__ = ["Model", "MultDAE", "MultVAE", "Phase", "RecVAE"]
