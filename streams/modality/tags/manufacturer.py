"""Makers and models that make machines of one kind; makers of everything claim nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from schemas.facts import HeaderFacts
from streams.modality.labels import (
    CT,
    ECG,
    ES,
    MG,
    MICROSCOPY,
    MR,
    NM,
    OP,
    OPT,
    PHOTOGRAPH,
    PT,
    RADIOGRAPH,
    US,
    XA,
)
from streams.modality.opinion import Opinion, claim

SIGNAL: Final = "manufacturer"

# Words of the model name, matched from their beginning.
_MODELS: Final[Mapping[str, str]] = {
    CT: "sensation|somatom|emotion|definition|lightspeed|brilliance|ingenuity|aquilion|hispeed|"
    "brightspeed|revolution ct|revolution evo|incisive|iqon|ict|mx8000|mx 8000|activion|alexion|"
    "asteion|xpress gx|uct|scenaria|supria|eclos|volume zoom|naeotom|newtom|accuitomo|"
    "discovery ct|rhapsode|spectral ct|neuviz|anatom|optima ct",
    MR: "signa|genesis_signa|genesis signa|magnetom|avanto|skyra|prisma|triotim|trio|verio|aera|"
    "espree|symphony|sonata|allegra|harmony|achieva|ingenia|intera|gyroscan|panorama|"
    "discovery mr|optima mr|umr|galan|titan|vantage|excelart|mrt|echelon|airis|oasis|biospec|"
    "pharmascan|biograph mmr|terra|vida|lumina|altea|sola|amira|essenza|spectra|concerto|"
    "elition|ambition|o-scan|e-scan|s-scan|c-scan|g-scan|altaire|aperto|artoscan|evolution mr",
    US: "logiq|vivid|voluson|venue|epiq|iu22|ie33|cx50|affiniti|hdi|sonos|lumify|clearvue|envisor|"
    "acuson|sequoia|antares|aplio|xario|nemio|ssd-|prosound|arietta|hi vision|hivision|preirus|"
    "ascendus|noblus|sonosite|m-turbo|micromaxx|edge ii|sparq|mylab|aixplorer|supersonic|"
    "resona|dc-7|dc-8|dc-70|m7|m9|ilab|s5 imaging|ultrasonix|sonixtouch|accuvix|sonoace|"
    "ws80a|rs80a|rs85|hs60|hs70|ebit|zonare|z.one|butterfly|clarius|invenia|sc2000|x300|x700",
    RADIOGRAPH: "axiom aristos|ysio|multix|definium|discovery xr|revolution xr|optima xr|digital "
    "diagnost|digitaldiagnost|essenta|mobilediagnost|drx|directview|kodak cr|fcr|irs|xg-1|"
    "fdr|adc_51|adc 51|adc compact|cr 35|cr 85|cr85|cr30|cr 75|dx-d|dx-g|dx-m|cxdi|"
    "radrex|regius|aerodr|prodigy|lunar|idxa|horizon dxa|discovery w|discovery a |hologic qdr|"
    "orthopantomograph|orthophos|planmeca|veraview|cs 9|radspeed|thoravision|digital mobile",
    MG: "selenia|mammomat|senographe|senograph|essential|lorad|3dimensions|dimensions|"
    "mammodiagnost|microdose|amulet|nuance|clarity|giotto|planmed|sophie|pristina|"
    "aspire hd|aspire cristalle|mammo|performa|alpha rt|m-iv|siemens inspiration|hologic 3d",
    NM: "infinia|millennium|ventri|symbia|brightview|forte|skylight|adac|vertex|e.cam|ecam|"
    "starcam|discovery nm|anyscan|d-spect|cardiomd|varicam|helix nm|meridian|gca-|digirad|"
    "xpert nm|nucline|spectrum dynamics",
    PT: "ecat|hr+|biograph64_mct pet|gemini pet|allegro|advance pet|hrrt|umi|vereos|"
    "discovery ls pet|1023|1024|1062|1080|1093|1094|cps pet",
    XA: "artis|axiom-artis|innova|allura|azurion|infinix|coroskop|polystar|integris|"
    "advantx|cinedigital|trinias|uroskop|easydiagnost|eleva|luminos|sireskop|ziehm|oec|"
    "arcadis|cios|veradius|bv pulsera|bv endura|bv libra|prestige|precision rxi|igs|"
    "digitron|hicor|sonialvision|ultimax|juno drf",
    OP: "visucam|trc-|trc nw|trc50|cr-1|cr-2|cr6|cx-1|nonmyd|daytona|california|optos|optomap|"
    "p200|clarus|retcam|eidon|ff450|ff 450|zeiss ff|kowa|nw400|nw8|nw6|nw300|icare|vx-10|"
    "afc-|dri nonmyd|3nethra|aurora|pictor|volk",
    OPT: "cirrus|hd-oct|stratus|spectralis|3d oct|oct-1000|oct-2000|dri oct|triton|maestro|"
    "rtvue|avanti|angiovue|rs-3000|rs3000|plex elite|plexelite|primus|solix|ilumien|lightlab|"
    "c7 |optis|envisu|bioptigen|copernicus|visante|casia|soct|heidelberg oct",
    ES: "evis|exera|lucera|cv-180|cv-190|cv-160|cv-170|cv-260|cv-290|epk|vp-4|vp-7|eluxeo|"
    "pillcam|given imaging|image1|endoeye|endocapsule|mirocam|storz|xion",
    MICROSCOPY: "aperio|scanscope|at2|gt450|nanozoomer|c9600|c13|pannoramic|ventana|dp200|"
    "iscan|ultrafast|intellisite|ufs|vs120|vs200|axioscan|axio scan|versa|motic|"
    "pathscan|vectra|polaris|mirax|omnyx|scn400",
    PHOTOGRAPH: "vidiview|dermlite|molemax|fotofinder|vectra wb|medicam|visiomed|heine|"
    "bodystudio|visia|canon eos|nikon d|silhouettestar",
    ECG: "cardiosoft|mac 5|mac5|mac 2|mac 1|pagewriter|eli 2|eli 3|cardiofax|cardiovit|mortara",
}
_MAKERS: Final[Mapping[str, str]] = {
    MG: "hologic|lorad|sectra mdm|fischer imaging|trex|ims giotto|planmed|xcounter",
    US: "acuson|aloka|atl|sonosite|esaote biomedica us|medison|samsung medison|zonare|"
    "supersonic imagine|b-k medical|bk medical|ultrasonix|clarius|butterfly|mindray|agilent|"
    "terason|signostics|verathon|teratech|boston scientific|volcano|u-systems",
    MR: "bruker|uih mr|paramed|fonar|hyperfine|esaote|magritek|mr solutions|aspect imaging",
    PT: "cps|cti|mediso pet|positron corp|naviscan",
    NM: "adac|digirad|sopha|smv|mediso|spectrum dynamics|gamma medica",
    RADIOGRAPH: "lunar|kodak|carestream|swissray|agfa|konica|canon inc|fuji photo|imix|"
    "lodox|sirona|planmeca|trophy|gendex|schick|lumisys|imaging dynamics|vatech|del medical|"
    "carestream health|sedecal|arcoma|quantum medical|norland",
    OP: "optos|canon ophth|kowa|clarity medical|centervue|phoenix tech|natus|remidio|optomed",
    OPT: "optovue|lightlab|bioptigen|zeiss meditec oct|optopol|st. jude|st jude|terumo oct",
    ES: "olympus|pentax|karl storz|storz|given imaging|stryker endo|fujinon|richard wolf",
    MICROSCOPY: "leica biosystems|aperio|hamamatsu|3dhistech|ventana|roche diag|motic|"
    "philips digital pathology|leica micro|visiopharm|indica|huron|objective imaging",
    XA: "ziehm|oec medical|orthoscan|hologic fluoroscan|fluoroscan",
    ECG: "mortara|schiller|nihon kohden|cardiac science|welch allyn",
    PHOTOGRAPH: "fotofinder|3gen|canfield|dermlite|heine|distributed medical",
}
# A maker makes more than one kind, or lent its name to other machines.
_MAKER_REST: Final[Mapping[str, Mapping[str, float]]] = {
    "hologic": {MG: 1.0, RADIOGRAPH: 0.3},
    "esaote": {US: 1.0, MR: 0.5},
    "agfa": {RADIOGRAPH: 1.0, MG: 0.15},
    "kodak": {RADIOGRAPH: 1.0, MG: 0.1},
    "carestream": {RADIOGRAPH: 1.0, MG: 0.1, CT: 0.1},
    "konica": {RADIOGRAPH: 1.0, MG: 0.2, US: 0.1},
    "fuji photo": {RADIOGRAPH: 1.0, MG: 0.2},
    "canon inc": {RADIOGRAPH: 1.0, OP: 0.4},
    "olympus": {ES: 1.0, MICROSCOPY: 0.3, US: 0.1},
    "pentax": {ES: 1.0},
    "boston scientific": {US: 1.0},
    "volcano": {US: 1.0},
    "mediso": {NM: 1.0, PT: 0.5, CT: 0.2},
    "optovue": {OPT: 1.0, OP: 0.1},
    "kowa": {OP: 1.0, OPT: 0.1},
}
# Hybrid machines write one model name into the series of both.
_HYBRIDS: Final[Mapping[str, Mapping[str, float]]] = {
    "biograph mmr": {MR: 1.0, PT: 0.7},
    "biograph": {PT: 1.0, CT: 1.0},
    "gemini": {PT: 1.0, CT: 1.0},
    "ingenuity tf": {PT: 1.0, CT: 1.0},
    "discovery st": {PT: 1.0, CT: 1.0},
    "discovery ls": {PT: 1.0, CT: 1.0},
    "discovery rx": {PT: 1.0, CT: 1.0},
    "discovery 6": {PT: 1.0, CT: 1.0},
    "discovery 7": {PT: 1.0, CT: 1.0},
    "discovery mi": {PT: 1.0, CT: 1.0},
    "discovery iq": {PT: 1.0, CT: 1.0},
    "vereos": {PT: 1.0, CT: 0.6},
    "umi": {PT: 1.0, CT: 1.0},
    "celesteion": {PT: 1.0, CT: 1.0},
    "aquiduo": {PT: 1.0, CT: 1.0},
    "reveal": {PT: 1.0, CT: 1.0},
    "symbia": {NM: 1.0, CT: 0.4},
    "infinia": {NM: 1.0, CT: 0.2},
    "precedence": {NM: 1.0, CT: 0.5},
    "discovery nm": {NM: 1.0, CT: 0.4},
    "optima nm": {NM: 1.0, CT: 0.4},
    "signa pet": {MR: 1.0, PT: 0.7},
    "pace": {RADIOGRAPH: 1.0},
}

_SEPARATORS = re.compile(r"[^a-z0-9]+")


def _key(name: str) -> str:
    return f" {_SEPARATORS.sub(' ', name.lower()).strip()}"


def _table(
    families: Mapping[str, str], rest: Mapping[str, Mapping[str, float]]
) -> dict[str, Mapping[str, float]]:
    table: dict[str, Mapping[str, float]] = {}
    for family, names in families.items():
        for name in names.split("|"):
            table[_key(name)] = {family: 1.0}
    table.update({_key(name): shares for name, shares in rest.items()})
    # The longest name wins: a Biograph mMR is no Biograph.
    return dict(sorted(table.items(), key=lambda item: -len(item[0])))


_MODEL_TABLE: Final = _table(_MODELS, _HYBRIDS)
_MAKER_TABLE: Final = _table(_MAKERS, _MAKER_REST)


def manufacturer_opinion(header: HeaderFacts) -> Opinion | None:
    """Recognise machines by model and maker.

    Parameters
    ----------
    header : HeaderFacts
        Facts of a DICOM header.

    Returns
    -------
    Opinion or None
        None for makers of many kinds of machines whose model is not known.
    """
    for words, table, name in (
        (header.manufacturer_model, _MODEL_TABLE, "model"),
        (header.manufacturer, _MAKER_TABLE, "maker"),
    ):
        written = _key(words or "")
        for known, shares in table.items():
            if known in written:
                return claim(SIGNAL, shares, f"{name} {known.strip()} makes {' or '.join(shares)}")
    return None
