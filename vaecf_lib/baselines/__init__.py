"""The systems the papers compare with, floors, and the embedded world's ceiling; one file each."""

from .autorec_i import AutoRecI
from .autorec_u import AutoRecU
from .biased_mf import BiasedMF
from .cdae import CDAE
from .cfgan import CFGAN
from .chance import Random
from .cnn_cf import CNNCF
from .ease import EASE
from .irgan import IRGAN
from .itemknn import ItemKNN
from .lambdanet import LambdaNet
from .macrid_vae import MacridVAE
from .means import Means
from .ncf import NCF
from .oracle import PlantedOracle
from .popularity import Popularity
from .ract import RaCT
from .slim import SLIM
from .warp import WARP
from .wmf import WMF
from .wmf_linear import LinearWMF

__all__ = [
    "CDAE",
    "CFGAN",
    "CNNCF",
    "EASE",
    "IRGAN",
    "NCF",
    "SLIM",
    "WARP",
    "WMF",
    "AutoRecI",
    "AutoRecU",
    "BiasedMF",
    "ItemKNN",
    "LambdaNet",
    "LinearWMF",
    "MacridVAE",
    "Means",
    "PlantedOracle",
    "Popularity",
    "RaCT",
    "Random",
]
