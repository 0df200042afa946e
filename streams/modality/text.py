"""What burnt-in text says of the modality: the units, parameters and names that machines print."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from streams.modality.cues import Cue, listed, weigh
from streams.modality.labels import (
    CT,
    ECG,
    ES,
    MG,
    MICROSCOPY,
    MR,
    NM,
    NON_MEDICAL,
    OP,
    OPT,
    OTHER,
    PHOTOGRAPH,
    PT,
    RADIOGRAPH,
    US,
    XA,
)
from streams.modality.opinion import Opinion
from streams.modality.terms import TERM_SHARES, Shares
from streams.sniff import vocabulary
from streams.sniff.months import without_months

SIGNAL: Final = "text"

_MAX_TEXTS: Final = 128
_MAX_CHARS: Final = 160


class Pattern(NamedTuple):
    """What machines print, and who prints it.

    Parameters
    ----------
    name : str
        What evidence calls it; the text itself is never repeated.
    regex : re.Pattern
        Searched in upper case text.
    shares, floor
        Compatible families, and the likelihood left to all others.
    """

    name: str
    regex: re.Pattern[str]
    shares: Shares
    floor: float


def _pattern(name: str, regex: str, shares: Shares, floor: float = 0.05) -> Pattern:
    # Words stand alone; readers drop the space between a word and its number.
    return Pattern(name, re.compile(rf"(?<![A-Z])(?:{regex})(?![A-Z])"), shares, floor)


_NUMBER: Final = r"[ :=<>]{0,3}[0-9]"
_OBLIQUE: Final = r"(?:LAO|RAO)[ :]{0,2}-?[0-9]|(?:CRAN|CAUD)[ :]{0,2}[0-9]"

PATTERNS: Final[tuple[Pattern, ...]] = (
    # Ultrasound
    _pattern("MHz", r"[0-9] ?MHZ|MHZ", {US: 1.0, MR: 0.03}, 0.02),
    _pattern("MI, TI", rf"MI{_NUMBER}[.,]|TI[SBC]\.?{_NUMBER}|TI[SBC]", {US: 1.0}, 0.01),
    _pattern("a frame rate in Hz", r"[0-9] ?HZ|FR ?[0-9]+ ?HZ", {US: 1.0, ECG: 0.3}, 0.05),
    _pattern(
        "a probe's name",
        r"(?:C|L|S|P|V|X|ML|EC|IC|RAB|RIC|RSP|RNA|LA|CA|SC|SL|BP|PA)[0-9]{1,2}-[0-9]{1,2}[A-Z]{0,2}",
        {US: 1.0},
        0.03,
    ),
    _pattern(
        "gain, dynamic range",
        r"GN ?-?[0-9]{1,3}|GAIN ?[:=]? ?-?[0-9]{1,3}|DR ?[0-9]{2,3} ?(?:DB)?|[0-9]+ ?DB",
        {US: 1.0, ECG: 0.1, OPT: 0.1},
        0.05,
    ),
    _pattern("harmonic imaging", r"THI|HPEN|HGEN|[CF]HI|HAR(?:M|MONIC)?", {US: 1.0}, 0.1),
    _pattern("Doppler", r"PRF|WF ?[0-9]+|CW|PW ?[0-9]*|CF ?[0-9.]+ ?MHZ|VTI", {US: 1.0}, 0.1),
    _pattern(
        "a distance measured",
        r"\+? ?DIST(?:ANCE)?(?: ?[A-Z0-9])?[ :=]{0,3}[0-9.]{0,6} ?(?:CM|MM)?",
        {US: 1.0, CT: 0.2, MR: 0.1, RADIOGRAPH: 0.1},
        0.1,
    ),
    _pattern(
        "a fetal measure",
        r"(?:BPD|HC|AC|FL|OFD|CRL|EFW|EDD|GA)[ :=]{1,3}[0-9]",
        {US: 1.0},
        0.05,
    ),
    _pattern(
        "an ultrasound machine's name",
        r"LOGIQ|VIVID|VOLUSON|ACUSON|SONOSITE|EPIQ|AFFINITI|ALOKA|MINDRAY|SONOACE|APLIO|MYLAB|IU22|"
        r"CX50|SAMSUNG MEDISON|ESAOTE|SONOGRAPHER",
        {US: 1.0, MR: 0.02},
        0.02,
    ),
    # X-rays
    _pattern(
        "kV", rf"KVP?{_NUMBER}|[0-9] ?KVP?|KVP", {CT: 1.0, RADIOGRAPH: 0.6, XA: 0.6, MG: 0.4}, 0.02
    ),
    _pattern(
        "mAs",
        rf"M ?AS?{_NUMBER}|[0-9] ?MAS?|MAS",
        {CT: 1.0, RADIOGRAPH: 0.6, XA: 0.4, MG: 0.4},
        0.03,
    ),
    _pattern(
        "CT parameters",
        r"DFOV|SFOV|GANTRY|HELI(?:X|CAL)|SPIRAL|TOPOGRAM|CTDI(?:VOL)?|DLP|ALGOR|"
        r"[0-9] ?HU|HU ?[0-9]|TILT[ :]{0,2}-?[0-9]",
        {CT: 1.0, OTHER: 0.1, PT: 0.05},
        0.04,
    ),
    _pattern(
        "a CT scanner's name",
        r"SOMATOM|AQUILION|LIGHTSPEED|TOMOSCAN|HISPEED|BRIGHTSPEED|SENSATION [0-9]+|BRILLIANCE",
        {CT: 1.0},
        0.02,
    ),
    _pattern(
        "window and level",
        rf"W(?:W|L|IN)?{_NUMBER}+ ?[,/ ]{{0,2}}(?:L|C|WL){_NUMBER}|C ?-?[0-9]+,? ?W ?[0-9]+|"
        r"W ?[:/=] ?[0-9]{2,}|WW ?[:=]? ?[0-9]{2,}",
        {CT: 1.0, MR: 0.8, RADIOGRAPH: 0.3, PT: 0.3, NM: 0.2, MG: 0.2, XA: 0.2},
        0.05,
    ),
    _pattern("a breast view", r"[RL] ?-? ?(?:MLO|CC|ML|LM|XCCL)|MLO", {MG: 1.0, US: 0.02}, 0.01),
    _pattern(
        "a radiograph's mark",
        r"PORTABLE|ERECT|UPRIGHT|SEMI ?-?ERECT|STANDING|AP SUPINE|SUPINE AP|WEIGHT ?-?BEARING|"
        r"LAT(?:ERAL)? CHEST|CHEST (?:PA|AP|LAT)|AP PORTABLE|DECUB(?:ITUS)?",
        {RADIOGRAPH: 1.0, XA: 0.1, US: 0.05},
        0.04,
    ),
    _pattern("a C-arm's angles", _OBLIQUE, {XA: 1.0, NM: 0.1}, 0.02),
    _pattern("DSA", r"DSA|ROAD ?MAP|FLUORO|CINE RUN", {XA: 1.0, RADIOGRAPH: 0.05}, 0.03),
    _pattern("frames per second", r"[0-9] ?FPS|FPS ?[0-9]+", {US: 1.0, XA: 1.0, ES: 0.2}, 0.05),
    # MR
    _pattern("TR", rf"TR{_NUMBER}{{2,5}}", {MR: 1.0}, 0.02),
    _pattern("TE", rf"TE{_NUMBER}{{1,3}}", {MR: 1.0}, 0.03),
    _pattern(
        "MR sequences",
        r"FLAIR|T[12] ?(?:W|FSE|TSE|SE|STIR|FLAIR|FS)|FSE|TSE|SPGR|MPRAGE|DWI|ADC|"
        r"NEX ?[:=]? ?[0-9]|ETL ?[:=]? ?[0-9]|NSA ?[0-9]",
        {MR: 1.0},
        0.02,
    ),
    _pattern("tesla", r"(?:0\.[25]|1\.5|3\.0|3|7) ?TESLA|1\.5 ?T|3\.0 ?T|3T", {MR: 1.0}, 0.03),
    _pattern(
        "an MR scanner's name",
        r"SIGNA|MAGNETOM|ACHIEVA|INGENIA|INTERA|AVANTO|SKYRA|TRIOTIM",
        {MR: 1.0},
        0.02,
    ),
    _pattern("FOV", rf"FOV{_NUMBER}|FOV", {CT: 1.0, MR: 1.0, OPT: 0.2, OP: 0.1, US: 0.1}, 0.05),
    _pattern(
        "series and image number",
        r"(?:SE|SER|SERIES|IM|IMA|IMG|IMAGE|SLICE|SL|SP|LOC)[ :#=]{1,3}-?[0-9]+",
        {CT: 1.0, MR: 1.0, PT: 0.4, NM: 0.2, US: 0.2, XA: 0.2, RADIOGRAPH: 0.2, OPT: 0.1},
        0.1,
    ),
    _pattern(
        "a slice's place and thickness",
        r"THK|THICK(?:NESS)?[ :]{0,2}[0-9]|SLICE LOC|LOC(?:ATION)?[ :]{1,2}-?[0-9]|"
        r"T ?[:=] ?[0-9.]+ ?MM",
        {CT: 1.0, MR: 1.0, PT: 0.3, NM: 0.2},
        0.1,
    ),
    _pattern("CT", r"^CT$", {CT: 1.0, PT: 0.1, NM: 0.05}, 0.05),
    _pattern("MR", r"^MRI?$", {MR: 1.0}, 0.05),
    # Nuclear medicine
    _pattern("SUV", r"SUV(?:BW|MAX)?|BQ/ML|FDG", {PT: 1.0, OTHER: 0.05, NM: 0.05}, 0.02),
    _pattern(
        "activity and counts",
        r"[0-9] ?MBQ|[0-9] ?MCI|K?CTS|KCOUNTS|K?CNTS|TC ?-?99 ?M|99M ?TC|MIBI|MDP",
        {NM: 1.0, PT: 0.3},
        0.02,
    ),
    # ECG
    _pattern(
        "mm/s, mm/mV",
        r"10 ?MM/MV|[0-9] ?MM/MV|25 ?MM/S(?:EC)?|50 ?MM/S(?:EC)?",
        {ECG: 1.0, US: 0.1},
        0.02,
    ),
    _pattern("a sweep speed", r"(?:75|100|150) ?MM/S(?:EC)?", {US: 1.0, ECG: 0.2}, 0.05),
    _pattern("ECG leads", r"AV[RLF]|V[1-6](?: ?[-,] ?V[1-6])?", {ECG: 1.0, OTHER: 0.02}, 0.05),
    _pattern(
        "ECG intervals",
        r"QRS|QTC?(?:/QTC)?|PR INT(?:ERVAL)?|SINUS RHYTHM|P-R-T|RR INT",
        {ECG: 1.0, OTHER: 0.1},
        0.03,
    ),
    _pattern("a heart rate", r"[0-9]+ ?BPM|HR ?[:=]? ?[0-9]{2,3}", {US: 1.0, ECG: 1.0}, 0.08),
    # Eyes
    _pattern(
        "OCT parameters",
        r"OCT(?:A)?|RNFL|ILM|ART ?\(?[0-9]+|SIGNAL STRENGTH|SPECTRALIS|CIRRUS|IR ?&? ?OCT|"
        r"B-?SCAN|ENFACE|EN FACE|RTVUE|ANGIOVUE",
        {OPT: 1.0, OP: 0.1},
        0.03,
    ),
    _pattern("a side of the eyes", r"^(?:OD|OS|O\.D\.|O\.S\.)$", {OP: 1.0, OPT: 1.0}, 0.1),
    _pattern(
        "fundus camera's text",
        r"FUNDUS|COLOU?R 50|RED ?-?FREE|MACULA|OPTIC DIS[CK]|FA [0-9]+:[0-9]{2}|ICGA?",
        {OP: 1.0, OPT: 0.3},
        0.05,
    ),
    # Light
    _pattern(
        "endoscopy",
        r"EVIS|SCV-?|EGD|COLONOSCOP[YA]?|GASTROSCOP[YA]?|ESOPHAGUS|OESOPHAGUS|CECUM|C(?:A)?ECUM|"
        r"DUODEN(?:UM|AL)|PYLOR(?:US|IC)|PREPYLORIC|ANTRUM|ILEUM|TRANS[UV]ERSE COLON|SIGMOID|NBI|"
        r"BRONCHUS|OLYMPUS|FUJINON|EH: ?A?[0-9]|C[ET]: ?[A0-9]",
        {ES: 1.0, MICROSCOPY: 0.05, US: 0.03},
        0.04,
    ),
    _pattern(
        "a microscope's scale",
        r"[0-9]+ ?(?:UM|MICRONS?)|(?:10|20|40|60|63|100) ?X|H ?& ?E",
        {MICROSCOPY: 1.0, OPT: 0.4, OP: 0.05, US: 0.05},
        0.05,
    ),
    _pattern("dermoscopy", r"DERMLITE|FOTOFINDER|MOLEMAX|DERMOSCOP[YE]", {PHOTOGRAPH: 1.0}, 0.02),
    # Pages and screens
    _pattern(
        "words of a report",
        r"REPORT|FINDINGS|IMPRESSION|CONCLUSION|DIAGNOSIS|REFERRING|PAGE ?[0-9]|DOSE SUMMARY|"
        r"PATIENT (?:ID|NAME)|DATE OF BIRTH|TOTAL (?:DLP|MAS)|CLINICAL|BEFUND|INFORME|RAPPORT",
        {OTHER: 1.0, ECG: 0.2, CT: 0.1},
        0.08,
    ),
    _pattern(
        "words of a user interface",
        r"SUBMIT|CANCEL|SETTINGS|LOG ?IN|PASSWORD|HTTPS?|WWW|COPYRIGHT|CLICK|RELOAD|UPLOAD|"
        r"WEBHOOK|CONFIG(?:URATION)?|DOWNLOAD|BROWSE|TOOLBAR|MENU",
        {NON_MEDICAL: 1.0, OTHER: 0.8},
        0.05,
    ),
)
"""Everything that may be recognised in burnt-in text."""

# Terms of the vocabulary that name a modality or what only one has; the rest of it is too short or
# too common to be searched for in what a machine may have misread.
_TERMS: Final = listed(
    "ct|mr|pet|spect|ultrasound|radiograph|mammogram|angiography|fluoroscopy|"
    "endoscopy|dermoscopy|fundus|oct|histology|elastography|doppler|flair|diffusion|mprage|"
    "localizer|dose-report|fdg|technetium"
)
_MIN_TERM_CHARS: Final = 3
_WORD = re.compile(r"[A-Z0-9]+")
# Prose is for people: pages and screens have it, images do not.
_PROSE_WORD = re.compile(r"[A-Za-z]{4,}")
_PROSE_WORDS: Final = 30
_PROSE: Final[Mapping[str, float]] = {OTHER: 1.0, NON_MEDICAL: 1.0}


def text_opinion(words: Sequence[str]) -> Opinion | None:
    """Weigh burnt-in text.

    Parameters
    ----------
    words : sequence of str
        Lines that were read, of ``TextFound.texts``; the first 128, of each 160 characters.

    Returns
    -------
    Opinion or None
        None where nothing is recognised. The evidence names patterns of a closed list, never the
        text: it may hold the patient's name.
    """
    texts = [without_months(_fold(text[:_MAX_CHARS])) for text in words[:_MAX_TEXTS]]
    cues = [
        Cue(pattern.name, pattern.shares, pattern.floor)
        for pattern in PATTERNS
        if any(pattern.regex.search(text) for text in texts)
    ]
    named = {cue.text for cue in cues}
    cues += [cue for cue in _term_cues(texts) if cue.text not in named]
    if sum(len(_PROSE_WORD.findall(text)) for text in texts) >= _PROSE_WORDS:
        cues.append(Cue("prose", _PROSE, 0.1))
    return weigh(SIGNAL, cues, "burnt-in text: ")


def _term_cues(texts: Iterable[str]) -> list[Cue]:
    long_words = (
        " ".join(word for word in _WORD.findall(text) if len(word) >= _MIN_TERM_CHARS)
        for text in texts
    )
    return [
        Cue(term, TERM_SHARES[term][0], max(TERM_SHARES[term][1], 0.05))
        for term in vocabulary.terms(long_words)
        if term in _TERMS and term in TERM_SHARES
    ]


def _fold(text: str) -> str:
    """Drop accents, but keep the micro sign, and raise to upper case."""
    if text.isascii():
        return text.upper()
    kept = text.replace("\u00b5", "u").replace("\u03bc", "u")
    return unicodedata.normalize("NFKD", kept).encode("ascii", "ignore").decode("ascii").upper()
