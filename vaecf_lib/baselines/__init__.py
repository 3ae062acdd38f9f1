"""The systems the papers compare with, floors, and the embedded world's ceiling."""

from .floors import Popularity, Random
from .oracle import PlantedOracle
from .rating import CDAE, CNNCF, DAECF, NCF, VAECF, AutoRecI, AutoRecU, BiasedMF, MacridVAE, Means

__all__ = [
    "CDAE",
    "CNNCF",
    "DAECF",
    "NCF",
    "VAECF",
    "AutoRecI",
    "AutoRecU",
    "BiasedMF",
    "MacridVAE",
    "Means",
    "PlantedOracle",
    "Popularity",
    "Random",
]
