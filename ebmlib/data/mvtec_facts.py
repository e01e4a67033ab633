"""What is published about MVTec AD: counts, license, addresses (chapters 1 and 12).

Bergmann, Fauser, Sattlegger, Steger: "MVTec AD - A Comprehensive Real-World Dataset for
Unsupervised Anomaly Detection", CVPR 2019; extended in IJCV 129, 2021. The addresses of
the images stand here and nowhere else, because they have changed several times.
"""

from typing import NamedTuple

LICENSE_NOTICE = (
    "MVTec AD, (c) 2019 MVTec Software GmbH, is licensed CC BY-NC-SA 4.0 "
    "(https://creativecommons.org/licenses/by-nc-sa/4.0/): no commercial use, share "
    "alike. Cite Bergmann et al., CVPR 2019 and IJCV 2021."
)


class Counts(NamedTuple):
    """Images of one category: normal for training and test, defective by kind."""

    train: int
    good: int
    defects: dict[str, int]
    side: int  # pixels; every image is square


OFFICIAL_COUNTS: dict[str, Counts] = {
    "bottle": Counts(
        209, 20, {"broken_large": 20, "broken_small": 22, "contamination": 21}, 900
    ),
    "cable": Counts(
        224,
        58,
        {
            "bent_wire": 13,
            "cable_swap": 12,
            "combined": 11,
            "cut_inner_insulation": 14,
            "cut_outer_insulation": 10,
            "missing_cable": 12,
            "missing_wire": 10,
            "poke_insulation": 10,
        },
        1024,
    ),
    "capsule": Counts(
        219,
        23,
        {"crack": 23, "faulty_imprint": 22, "poke": 21, "scratch": 23, "squeeze": 20},
        1000,
    ),
    "carpet": Counts(
        280,
        28,
        {"color": 19, "cut": 17, "hole": 17, "metal_contamination": 17, "thread": 19},
        1024,
    ),
    "grid": Counts(
        264,
        21,
        {"bent": 12, "broken": 12, "glue": 11, "metal_contamination": 11, "thread": 11},
        1024,
    ),
    "hazelnut": Counts(
        391, 40, {"crack": 18, "cut": 17, "hole": 18, "print": 17}, 1024
    ),
    "leather": Counts(
        245, 32, {"color": 19, "cut": 19, "fold": 17, "glue": 19, "poke": 18}, 1024
    ),
    "metal_nut": Counts(
        220, 22, {"bent": 25, "color": 22, "flip": 23, "scratch": 23}, 700
    ),
    "pill": Counts(
        267,
        26,
        {
            "color": 25,
            "combined": 17,
            "contamination": 21,
            "crack": 26,
            "faulty_imprint": 19,
            "pill_type": 9,
            "scratch": 24,
        },
        800,
    ),
    "screw": Counts(
        320,
        41,
        {
            "manipulated_front": 24,
            "scratch_head": 24,
            "scratch_neck": 25,
            "thread_side": 23,
            "thread_top": 23,
        },
        1024,
    ),
    "tile": Counts(
        230,
        33,
        {"crack": 17, "glue_strip": 18, "gray_stroke": 16, "oil": 18, "rough": 15},
        840,
    ),
    "toothbrush": Counts(60, 12, {"defective": 30}, 1024),
    "transistor": Counts(
        213,
        60,
        {"bent_lead": 10, "cut_lead": 10, "damaged_case": 10, "misplaced": 10},
        1024,
    ),
    "wood": Counts(
        247,
        19,
        {"color": 8, "combined": 11, "hole": 10, "liquid": 10, "scratch": 21},
        1024,
    ),
    "zipper": Counts(
        240,
        32,
        {
            "broken_teeth": 19,
            "combined": 16,
            "fabric_border": 17,
            "fabric_interior": 16,
            "rough": 17,
            "split_teeth": 18,
            "squeezed_teeth": 16,
        },
        1024,
    ),
}


class Source(NamedTuple):
    """Address of an archive, and its SHA-256 where one is published."""

    url: str
    sha256: str | None = None


_SHARES = "https://www.mydrive.ch/shares"
_ARCHIVES = {  # share / key / number
    "bottle": "150452/132a93367fb17cdf968dfb5c4013f6e7/420937370-1629958698",
    "cable": "150453/10f960e07fec2838b2cd512586633a32/420937413-1629958794",
    "capsule": "150454/e0ce6dd74eb150f46c0d98131b3703f2/420937454-1629958872",
    "carpet": "150455/eac7fbce84d93a5094e13f391170eca4/420937484-1629959013",
    "grid": "150456/bb0b2e3dc804ccb8b4485e01f8e4493b/420937487-1629959044",
    "hazelnut": "150457/51d49f65e84bdc100ff8035d7dd783ea/420937545-1629959162",
    "leather": "150458/923030ce14e10a7d147e95d0f8885f6b/420937607-1629959262",
    "metal_nut": "150459/c68856a21dca589b0f8ff6d4ee0f18f4/420937637-1629959294",
    "pill": "150460/d4f1c04da67034ccc8d8b5fa3e73f244/420938129-1629960351",
    "screw": "150461/242f454cc6385e5693c4fd4b94567d1e/420938130-1629960389",
    "tile": "150462/5479f0fdc97bc6fa16eab0cb0cf0109f/420938133-1629960456",
    "toothbrush": "150463/895a1a5fb84b958f07417784b060434b/420938134-1629960477",
    "transistor": "150464/99b8ea0332438d64fcc2475ee73f9c29/420938166-1629960554",
    "wood": "150465/d5b4115b720cdb54d217e75636e6e374/420938383-1629960649",
    "zipper": "150466/bd155b557520edaf692d9bfdb915c24a/420938385-1629960680",
}
# All fifteen categories in one archive of 4.9 GB.
BUNDLE = Source(
    f"{_SHARES}/150996/b52ecdcbf521176e9db9c731f2304b27/download/"
    "420938113-1629960298/mvtec_anomaly_detection.tar.xz",
    "cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d",
)


def official_sources(category: str) -> list[Source]:
    """Where to try, in this order: the category's own archive, then the bundle."""
    share, key, number = _ARCHIVES[category].split("/")
    url = f"{_SHARES}/{share}/{key}/download/{number}/{category}.tar.xz"
    return [Source(url), BUNDLE]
