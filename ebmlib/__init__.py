"""Energy-based anomaly detection and localization: the library of the book.

    from ebmlib import EnergyDetector

Each file holds one idea and names the chapter that explains it. The names below are
the usual way in; they are imported when they are first used, so that `import ebmlib`
costs nothing. Everything else is imported from where it lies, for example
`from ebmlib.langevin import langevin`.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebmlib.data import Category as Category, load as load
    from ebmlib.detector import EnergyDetector as EnergyDetector
    from ebmlib.energy import energies as energies, input_gradient as input_gradient
    from ebmlib.feature_recipes import (
        Fields as Fields,
        LearnedFeatures as LearnedFeatures,
    )
    from ebmlib.networks import ConvEnergy as ConvEnergy, PatchEnergy as PatchEnergy
    from ebmlib.prediction import Prediction as Prediction
    from ebmlib.recipes import (
        Contrast as Contrast,
        ContrastiveDivergence as ContrastiveDivergence,
        Experts as Experts,
        ScoreMatching as ScoreMatching,
    )
    from ebmlib.scoring import (
        energy_score as energy_score,
        gradient_map as gradient_map,
    )
    from ebmlib.training import train as train

__version__ = "0.1.0"

# Silent unless the program that imports the library sets up logging.
logging.getLogger(__name__).addHandler(logging.NullHandler())

_WHERE = {
    "Category": "data",
    "Contrast": "recipes",
    "ContrastiveDivergence": "recipes",
    "ConvEnergy": "networks",
    "EnergyDetector": "detector",
    "Experts": "recipes",
    "Fields": "feature_recipes",
    "LearnedFeatures": "feature_recipes",
    "PatchEnergy": "networks",
    "Prediction": "prediction",
    "ScoreMatching": "recipes",
    "energies": "energy",
    "energy_score": "scoring",
    "gradient_map": "scoring",
    "input_gradient": "energy",
    "load": "data",
    "train": "training",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
