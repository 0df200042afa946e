"""What words in paths say of the modality: codes, abbreviations, languages, public data sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

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
from streams.modality.terms import Shares


class Said(NamedTuple):
    """Compatible families with their relative shares, and the likelihood left to all others."""

    shares: Shares
    floor: float


# A name is given by hand: no word of it excludes anything for certain.
_CLEAR: Final = 0.02
_FAIR: Final = 0.08
_VAGUE: Final = 0.25

# Whole words, lower case, without accents. Modality codes (PS3.3 C.7.3.1.1.1), what clinics and
# repositories write in English, German, French, Spanish, Italian, Portuguese, Dutch, Polish,
# Turkish, Russian in Latin letters, and names of public data sets of one modality.
_CLEAR_WORDS: Final[Mapping[str, str]] = {
    CT: "ct|cts|cect|ncct|nect|cta|ctpa|hrct|ldct|lowdosect|cbct|dect|mdct|qct|ctscan|ctscans|"
    "tac|tdm|scanner|tomodensitometrie|computertomographie|komputerowa|bt|tomografi|kt|"
    "lidc|luna16|lits|kits|kits19|kits21|kits23|deeplesion|flare22|amos|btcv|sliver07|3dircadb|"
    "cq500|mosmed|mosmeddata|covidctset|covidct|totalsegmentator|nlst|lndb|hounsfield|hu|"
    "lungwindow|bonewindow|brainwindow|subduralwindow|topogram",
    MR: "mr|mri|mris|mrt|irm|rmn|mrscan|mriscan|kernspin|resonancia|risonanza|ressonancia|mra|mrcp|"
    "smri|fmri|dmri|qmri|cmr|cmri|mpmri|bpmri|dcemri|t1w|t2w|t1c|t1ce|t1gd|t1n|t2f|pdw|flair|dwi|"
    "adc|swi|dti|mprage|bold|epi|haste|stir|"
    "brats|brats2018|brats2020|brats2021|adni|oasis1|oasis3|ixi|promise12|prostatex|acdc|fastmri|"
    "mrbrains|wmh|hcp|abide|ukbb|sct|spider|hvsmr|picai|duke|atlas2|isles|msseg|emidec|rezonans|mrg",
    US: "ultrasound|ultrasounds|ultrason|ultrasonido|ultrassom|usg|sono|sonogram|sonografie|"
    "sonography|sonographie|ultraschall|echographie|echografie|ecografia|ecografie|ultrasonografi|"
    "ultrasonic|doppler|echocardiogram|echocardiography|echokardiographie|tte|tee|busi|busuc|ddti|"
    "tn3k|camus|echonet|hc18|fetalhead|bmode|ivus|pocus|lus|uzi|elastography|breastus|eus",
    RADIOGRAPH: "xray|xrays|xr|cxr|axr|kub|radiograph|radiographs|radiography|radiographie|"
    "radiografia|radiographic|roentgen|rontgen|roentgenogram|rx|rtg|rentgen|chestxray|chestxrays|"
    "chestxray8|chestxray14|chexpert|mimiccxr|padchest|vindrcxr|vinbigdata|openi|jsrt|shenzhen|"
    "montgomery|mura|fracatlas|boneage|covid19radiography|dx|opg|orthopantomogram|panoramic|"
    "bitewing|periapical|cephalogram|cephalometric|dexa|dxa|siim|kneeoa|pneumothorax",
    MG: "mg|mammo|mammos|mammogram|mammograms|mammography|mammographie|mammografia|mamografia|"
    "mamografi|mammografie|mammo2d|ffdm|dbt|mlo|lmlo|rmlo|lcc|rcc|cbis|ddsm|cbisddsm|inbreast|"
    "mias|vindrmammo|cmmd|embed|kau|tomosynthesis",
    NM: "nm|spect|scintigraphy|scintigraphie|scintigrafia|scintigrafie|szintigraphie|szinti|"
    "szintigramm|gammagrafia|gammagram|bonescan|mpi|dmsa|mag3|hida|mibg|datscan|sestamibi|"
    "tc99m|renogram|scintigram|sintigrafi|lymphoscintigraphy",
    PT: "pet|fdg|psma|suv|suvbw|positron|tep|fdgpet|petscan|autopet|hecktor|amyloid|florbetapir|"
    "dotatate|petnac|petac|petwb",
    XA: "xa|rf|dsa|angio|angiogram|angiograms|angiography|angiographie|angiografia|angiograma|"
    "coronarography|coronarographie|coronarografia|cathlab|cath|arcade|xrf|fluoro|fluoroscopy|"
    "fluoroscopie|fluoroscopia|durchleuchtung|anjiyografi|anjio|xcad|dca1|cinecath|vfss|barium",
    OP: "op|fundus|fundi|cfp|retinography|retinographie|retinografia|retinalphoto|eyefundus|drive|"
    "stare|chasedb1|chase|hrf|idrid|messidor|messidor2|eyepacs|aptos|aptos2019|drishti|rimone|"
    "refuge|origa|g1020|odir|rfmid|retcam|papilla|diabeticretinopathy|fluorescein|ffa|uwf|optos|"
    "kaggledr|augenhintergrund|ddr|arpn|rop",
    OPT: "opt|oct|octa|oct2017|sdoct|ssoct|octscan|bscan|ivoct|octdl|retouch|duke_oct|octid|"
    "kermany|cnv|dme|drusen|octmnist",
    ES: "es|endoscopy|endoscopic|endoskopie|endoscopie|endoscopia|endoskopi|colonoscopy|"
    "coloscopy|koloskopie|colonoscopia|coloscopie|gastroscopy|gastroskopie|gastroscopia|egd|"
    "bronchoscopy|bronchoskopie|laparoscopy|laparoscopic|cystoscopy|arthroscopy|kvasir|"
    "hyperkvasir|kvasircapsule|cvc|cvcclinicdb|cvccolondb|etis|polyp|polyps|cholec80|cholecseg8k|"
    "endovis|m2cai|endotect|capsule|ercp|laryngoscopy|otoscopy|hysteroscopy|bkai",
    MICROSCOPY: "sm|gm|wsi|wsis|histo|histology|histologie|histologia|histopathology|histopath|"
    "pathology|pathologie|patologia|microscopy|microscope|mikroskopie|microscopie|microscopia|"
    "cytology|zytologie|slide|slides|smear|bloodsmear|pap|papsmear|he|hande|ihc|camelyon|"
    "camelyon16|camelyon17|pcam|tcga|bach|breakhis|bccd|kather|crc100k|pannuke|monuseg|consep|"
    "glas|lizard|panda|bracs|sicap|svs|ndpi|mrxs|malaria|erythrocytes|leukocytes|wbc|rbc|"
    "leukemia|allidb|sipakmed|herlev|osteosarcoma|nuclei|dsb2018|ocdc|pathmnist|bloodmnist|"
    "fluorescence|confocal|tissue",
    PHOTOGRAPH: "xc|derm|dermoscopy|dermatoscopy|dermoscopic|dermatoskopie|dermatoscopie|"
    "dermoscopia|dermatology|dermatologie|dermato|dermis|melanoma|melanom|melanome|nevus|naevus|"
    "nevi|isic|isic2016|isic2017|isic2018|isic2019|isic2020|ham10000|ph2|mednode|dermnet|"
    "fitzpatrick17k|pad|padufes|skinlesion|skinlesions|skincancer|wound|wounds|ulcer|dfu|"
    "dermamnist|molemax|sd198|sd260|clinicalphoto|keratosis|basalcell|bcc",
    ECG: "ecg|ekg|ecgs|ekgs|electrocardiogram|electrocardiograma|elektrokardiogramm|"
    "electrocardiogramme|elettrocardiogramma|eletrocardiograma|ptbxl|12lead|12leads|rhythmstrip",
    OTHER: "screenshot|screencap|screensave|report|reports|befund|bericht|rapport|informe|referto|"
    "laudo|doc|document|dosereport|dosesheet|dose|consent|letter|fax|scanneddoc|paper|form|sr|"
    "label|labels|mask|masks|seg|segs|segmentation|segmentations|groundtruth|annotation|"
    "annotations|overlay|fused|fusion|petct|pmap|heatmap|saliency|gradcam|parcellation|aal|"
    "zstat|zstat1|tstat|statmap|labelmap|phantom",
    NON_MEDICAL: "photo|photos|selfie|cat|cats|dog|dogs|car|cars|flower|flowers|landscape|logo|"
    "icon|icons|avatar|wallpaper|meme|food|building|street|camvid|cityscapes|coco|imagenet|"
    "cifar|cifar10|cifar100|mnist|pascal|voc|voc2012|kitti|ade20k|celeba|lfw|lena|lenna|baboon|"
    "cameraman|astronaut|coffee|chelsea|horse|hopper|test_pattern|testpattern|testimage|logos|"
    "figure|fig|plot|plots|chart|diagram|gui|button|notification|architecture|flowchart|thumbnail|"
    "barcode|qr|qrcode|cartoon|drawing|animal|animals|vehicle|vehicles|seaborn|matplotlib|"
    "pillow|tesseract|ocr",
}
# Where other readings are as likely: all of them are named.
_SEVERAL: Final[Mapping[str, tuple[Shares, float]]] = {
    # ``us`` is a country and a pronoun, ``pt`` a patient or Portugal, ``op`` an operation.
    "us": ({US: 1.0}, 0.12),
    "eco": ({US: 1.0}, _FAIR),
    "echo": ({US: 1.0, MR: 0.4}, _FAIR),
    "pt": ({PT: 1.0}, 0.3),
    "pts": ({PT: 1.0}, 0.6),
    "op": ({OP: 1.0}, 0.3),
    "opt": ({OPT: 1.0}, 0.3),
    "es": ({ES: 1.0}, 0.3),
    "sm": ({MICROSCOPY: 1.0}, 0.2),
    "gm": ({MICROSCOPY: 1.0, MR: 0.6}, 0.3),
    "he": ({MICROSCOPY: 1.0}, 0.3),
    "rf": ({XA: 1.0, RADIOGRAPH: 0.5}, 0.2),
    "xa": ({XA: 1.0, MR: 0.1}, 0.1),
    "nm": ({NM: 1.0}, 0.15),
    "mg": ({MG: 1.0}, 0.1),
    "dx": ({RADIOGRAPH: 1.0}, 0.15),
    "cr": ({RADIOGRAPH: 1.0, CT: 0.1}, 0.2),
    "rg": ({RADIOGRAPH: 1.0}, 0.3),
    "px": ({RADIOGRAPH: 1.0}, 0.5),
    "io": ({RADIOGRAPH: 1.0}, 0.6),
    "xc": ({PHOTOGRAPH: 1.0}, 0.2),
    "sc": ({OTHER: 1.0}, 0.5),
    "ot": ({OTHER: 1.0}, 0.6),
    "kt": ({CT: 1.0}, 0.3),
    "bt": ({CT: 1.0}, 0.5),
    "tc": ({CT: 1.0, NM: 0.3}, 0.1),
    "hu": ({CT: 1.0}, 0.2),
    "rm": ({MR: 1.0}, 0.3),
    "ivus": ({US: 1.0}, _CLEAR),
    "t1": ({MR: 1.0}, _FAIR),
    "t2": ({MR: 1.0}, _FAIR),
    "bold": ({MR: 1.0}, 0.1),
    "duke": ({MR: 1.0, OPT: 1.0}, 0.2),
    "drive": ({OP: 1.0}, 0.4),
    "stare": ({OP: 1.0}, 0.2),
    "chase": ({OP: 1.0}, 0.2),
    "spider": ({MR: 1.0}, 0.4),
    "atlas2": ({MR: 1.0}, 0.1),
    "sct": ({MR: 1.0}, 0.2),
    "embed": ({MG: 1.0}, 0.6),
    "kau": ({MG: 1.0}, 0.1),
    "capsule": ({ES: 1.0}, 0.2),
    "slide": ({MICROSCOPY: 1.0, OTHER: 0.2}, 0.1),
    "slides": ({MICROSCOPY: 1.0, OTHER: 0.2}, 0.1),
    "pad": ({PHOTOGRAPH: 1.0}, 0.5),
    "panda": ({MICROSCOPY: 1.0, NON_MEDICAL: 0.8}, 0.1),
    "bach": ({MICROSCOPY: 1.0}, 0.3),
    "malaria": ({MICROSCOPY: 1.0}, _CLEAR),
    "tissue": ({MICROSCOPY: 1.0, CT: 0.3, MR: 0.2}, 0.15),
    "pathology": ({MICROSCOPY: 1.0}, 0.1),
    "melanoma": ({PHOTOGRAPH: 1.0, MICROSCOPY: 0.3}, 0.03),
    "ulcer": ({PHOTOGRAPH: 1.0, ES: 1.0}, 0.1),
    "polyp": ({ES: 1.0, MICROSCOPY: 0.1, CT: 0.05}, 0.05),
    "polyps": ({ES: 1.0, MICROSCOPY: 0.1, CT: 0.05}, 0.05),
    "cnv": ({OPT: 1.0, OP: 0.3}, 0.1),
    "dme": ({OPT: 1.0, OP: 0.6}, 0.1),
    "drusen": ({OPT: 1.0, OP: 0.6}, 0.05),
    "kermany": ({OPT: 1.0, RADIOGRAPH: 0.7}, 0.05),
    "fluorescence": ({MICROSCOPY: 1.0, OP: 0.2}, 0.1),
    "confocal": ({MICROSCOPY: 1.0, OP: 0.1}, 0.05),
    "cath": ({XA: 1.0}, 0.15),
    "barium": ({XA: 1.0, RADIOGRAPH: 0.5}, 0.05),
    "cta": ({CT: 1.0, XA: 0.1}, _CLEAR),
    "mra": ({MR: 1.0, XA: 0.1}, _CLEAR),
    "petct": ({PT: 1.0, CT: 1.0, OTHER: 1.0}, 0.03),
    "petmr": ({PT: 1.0, MR: 1.0, OTHER: 0.5}, 0.03),
    "spectct": ({NM: 1.0, CT: 0.7, OTHER: 0.5}, 0.03),
    "pneumonia": ({RADIOGRAPH: 1.0, CT: 0.4}, 0.1),
    "pneumothorax": ({RADIOGRAPH: 1.0, CT: 0.4}, 0.1),
    "covid": ({RADIOGRAPH: 1.0, CT: 1.0, US: 0.1}, 0.1),
    "covid19": ({RADIOGRAPH: 1.0, CT: 1.0, US: 0.1}, 0.1),
    "tuberculosis": ({RADIOGRAPH: 1.0, MICROSCOPY: 0.3, CT: 0.2}, 0.1),
    "fracture": ({RADIOGRAPH: 1.0, CT: 0.4}, 0.1),
    "nodule": ({CT: 1.0, US: 0.6, RADIOGRAPH: 0.4}, 0.1),
    "nodules": ({CT: 1.0, US: 0.6, RADIOGRAPH: 0.4}, 0.1),
    "hemorrhage": ({CT: 1.0, MR: 0.1, OP: 0.1}, 0.05),
    "haemorrhage": ({CT: 1.0, MR: 0.1, OP: 0.1}, 0.05),
    "subdural": ({CT: 1.0, MR: 0.1}, 0.03),
    "epidural": ({CT: 1.0, MR: 0.1}, 0.03),
    "intraparenchymal": ({CT: 1.0, MR: 0.1}, 0.03),
    "intraventricular": ({CT: 1.0, MR: 0.1, US: 0.05}, 0.03),
    "subarachnoid": ({CT: 1.0, MR: 0.1}, 0.03),
    "glioma": ({MR: 1.0, MICROSCOPY: 0.2}, 0.05),
    "meningioma": ({MR: 1.0, MICROSCOPY: 0.1}, 0.05),
    "glioblastoma": ({MR: 1.0, MICROSCOPY: 0.3}, 0.05),
    "alzheimer": ({MR: 1.0, PT: 0.3}, 0.1),
    "demented": ({MR: 1.0, PT: 0.2}, 0.05),
    "stenosis": ({XA: 1.0, US: 0.5, CT: 0.5, MR: 0.4}, 0.1),
    "retinopathy": ({OP: 1.0, OPT: 0.2}, 0.05),
    "glaucoma": ({OP: 1.0, OPT: 0.5}, 0.05),
    "optic": ({OP: 1.0, OPT: 0.5, MR: 0.1}, 0.1),
    "vessel": ({OP: 1.0, CT: 0.5, XA: 0.5, MR: 0.5}, 0.2),
    "carcinoma": ({MICROSCOPY: 1.0, PHOTOGRAPH: 0.4, CT: 0.3, MR: 0.2, MG: 0.2}, 0.1),
    "adenocarcinoma": ({MICROSCOPY: 1.0, CT: 0.3}, 0.1),
    "lesion": ({PHOTOGRAPH: 1.0, MR: 0.7, CT: 0.6, MG: 0.5}, 0.2),
    "benign": ({US: 1.0, MG: 1.0, PHOTOGRAPH: 1.0, MICROSCOPY: 1.0}, 0.2),
    "malignant": ({US: 1.0, MG: 1.0, PHOTOGRAPH: 1.0, MICROSCOPY: 1.0}, 0.2),
    "caries": ({RADIOGRAPH: 1.0, PHOTOGRAPH: 0.5, OTHER: 0.2}, 0.05),
    "mask": ({OTHER: 1.0}, _VAGUE),
    "masks": ({OTHER: 1.0}, _VAGUE),
    "seg": ({OTHER: 1.0}, _VAGUE),
    "segmentation": ({OTHER: 1.0}, 0.6),
    "segmentations": ({OTHER: 1.0}, 0.6),
    "annotation": ({OTHER: 1.0}, 0.4),
    "annotations": ({OTHER: 1.0}, 0.4),
    "label": ({OTHER: 1.0}, 0.4),
    "labels": ({OTHER: 1.0}, 0.4),
    "overlay": ({OTHER: 1.0}, 0.4),
    "phantom": ({OTHER: 1.0}, 0.7),
    "report": ({OTHER: 1.0}, _VAGUE),
    "dose": ({OTHER: 1.0, CT: 0.6}, _VAGUE),
    "doc": ({OTHER: 1.0}, 0.4),
    "form": ({OTHER: 1.0}, 0.4),
    "paper": ({OTHER: 1.0, NON_MEDICAL: 0.5}, 0.3),
    "sr": ({OTHER: 1.0}, 0.4),
    "fusion": ({OTHER: 1.0, PT: 0.5}, _VAGUE),
    "fused": ({OTHER: 1.0, PT: 0.3}, 0.15),
    "screenshot": ({OTHER: 1.0, NON_MEDICAL: 1.0}, 0.2),
    "screencap": ({OTHER: 1.0, NON_MEDICAL: 1.0}, 0.2),
    "photo": ({NON_MEDICAL: 1.0, PHOTOGRAPH: 1.0, OP: 0.3}, 0.1),
    "photos": ({NON_MEDICAL: 1.0, PHOTOGRAPH: 1.0, OP: 0.3}, 0.1),
    "figure": ({NON_MEDICAL: 1.0, OTHER: 1.0}, _VAGUE),
    "fig": ({NON_MEDICAL: 1.0, OTHER: 1.0}, _VAGUE),
    "plot": ({NON_MEDICAL: 1.0, OTHER: 1.0}, 0.1),
    "plots": ({NON_MEDICAL: 1.0, OTHER: 1.0}, 0.1),
    "chart": ({NON_MEDICAL: 1.0, OTHER: 1.0}, 0.1),
    "diagram": ({NON_MEDICAL: 1.0, OTHER: 1.0}, 0.1),
    "barcode": ({NON_MEDICAL: 1.0, OTHER: 1.0}, 0.05),
    "thumbnail": ({NON_MEDICAL: 1.0, MICROSCOPY: 0.5}, 0.5),
    "animal": ({NON_MEDICAL: 1.0}, 0.4),
    "drawing": ({NON_MEDICAL: 1.0, OTHER: 0.5}, 0.2),
    "mnist": ({NON_MEDICAL: 1.0}, 0.3),
    "cat": ({NON_MEDICAL: 1.0, CT: 0.1}, 0.1),
    "voc": ({NON_MEDICAL: 1.0}, 0.3),
    "ocr": ({NON_MEDICAL: 1.0, OTHER: 1.0}, 0.2),
    "pet": ({PT: 1.0, CT: 0.15, NON_MEDICAL: 0.1}, 0.04),
    "pets": ({NON_MEDICAL: 1.0, PT: 0.2}, 0.1),
    "scan": ({CT: 1.0, MR: 0.8, PT: 0.3, NM: 0.2, OPT: 0.2, US: 0.2, OTHER: 0.2}, 0.15),
    "scans": ({CT: 1.0, MR: 0.8, PT: 0.3, NM: 0.2, OPT: 0.2, US: 0.2, OTHER: 0.2}, 0.15),
}

WORDS: Final[Mapping[str, Said]] = {
    **{w: Said({f: 1.0}, _CLEAR) for f, words in _CLEAR_WORDS.items() for w in words.split("|")},
    **{word: Said(*said) for word, said in _SEVERAL.items()},
}
"""Whole words of paths."""

_STEMS: Final[Mapping[str, str]] = {
    MG: "mammogr|mammograp|mamograf|tomosynth",
    US: "ultrasou|ultrason|ultrassom|ultrascha|sonogra|sonogram|ecograf|echograp|echocard|echokard",
    RADIOGRAPH: "radiograp|radiogr|roentgen|rontgen|xray|chestx",
    CT: "computertomo|tomodensit|ctscan|ctimage|ctlung|ctbrain|cthead|ctchest|ctabd",
    MR: "kernspin|magneticres|resonanc|risonanz|ressonan|mriscan|mriimage|brainmri|mrbrain",
    XA: "angiogra|angiokard|fluorosco|coronarogra",
    OP: "fundus|retinogra|augenhinter|retinopath",
    OPT: "octscan|octimage|opticalcoh",
    ES: "endosco|endosko|colonosc|kolosko|gastrosc|gastrosko|bronchosc|laparosc",
    MICROSCOPY: "histolog|histopat|microscop|mikroskop|cytolog|zytolog",
    PHOTOGRAPH: "dermato|dermosc|melanom|skinles|skincanc",
    NM: "scintigr|szintigr|gammagra",
    ECG: "electrocardio|elektrokardio|elettrocardio|eletrocardio",
    PT: "petscan|positron",
}
STEMS: Final[tuple[tuple[str, Said], ...]] = tuple(
    (stem, Said({family: 1.0}, _CLEAR))
    for family, stems in _STEMS.items()
    for stem in stems.split("|")
)
"""Beginnings of words, for what is written together: ``chestxraypa``, ``mammografien``."""

SUFFIXES: Final[Mapping[str, Said]] = {
    **{
        s: Said({MICROSCOPY: 1.0}, 0.02) for s in (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms")
    },
    **{s: Said({MICROSCOPY: 1.0}, 0.03) for s in (".czi", ".lif", ".nd2", ".oib", ".lsm", ".vsi")},
    **{s: Said({OPT: 1.0, OP: 0.2}, 0.02) for s in (".e2e", ".fda", ".fds")},
    ".ima": Said({MR: 1.0, CT: 0.6, PT: 0.2}, 0.05),
}
"""File name suffixes of one trade's formats; general formats say nothing."""

SCRIPTS: Final[Mapping[str, str]] = {
    "\u0443\u0437\u0438": "ultrasound",  # Russian: UZI
    "\u044d\u0445\u043e": "echo",
    "\u043c\u0440\u0442": "mrt",
    "\u043f\u044d\u0442": "pet",
    "\u044d\u043a\u0433": "ekg",
    "\u0440\u0435\u043d\u0442\u0433\u0435\u043d": "rentgen",
    "\u043c\u0430\u043c\u043c\u043e": "mammo",
    "\u044d\u043d\u0434\u043e\u0441\u043a\u043e\u043f": "endoscopy",
    "\u0433\u0438\u0441\u0442\u043e\u043b\u043e\u0433": "histology",
    "\u0441\u0446\u0438\u043d\u0442\u0438\u0433\u0440": "scintigraphy",
    "\u0430\u043d\u0433\u0438\u043e\u0433\u0440": "angiography",
    "\u0434\u0435\u0440\u043c\u0430\u0442": "dermato",
    "\u8d85\u58f0": "ultrasound",  # Chinese, simplified and traditional
    "\u8d85\u97f3\u6ce2": "ultrasound",
    "\u78c1\u5171\u632f": "mri",
    "\u6838\u78c1": "mri",
    "\u80f8\u7247": "cxr",
    "\u94bc\u9776": "mammo",
    "\u5fc3\u7535\u56fe": "ecg",
    "\u5fc3\u96fb\u5716": "ecg",
    "\u5fc3\u96fb\u56f3": "ecg",
    "\u773c\u5e95": "fundus",
    "\u5185\u955c": "endoscopy",
    "\u5167\u8996\u93e1": "endoscopy",
    "\u80c3\u955c": "gastroscopy",
    "\u80a0\u955c": "colonoscopy",
    "\u76ae\u80a4\u955c": "dermoscopy",
    "\u75c5\u7406": "pathology",
    "\u9020\u5f71": "angiography",
    "\ucd08\uc74c\ud30c": "ultrasound",  # Korean
    "\u03c5\u03c0\u03ad\u03c1\u03b7\u03c7": "ultrasound",  # Greek
    "\u03bc\u03b1\u03b3\u03bd\u03b7\u03c4": "mri",
    "\u0633\u0648\u0646\u0627\u0631": "ultrasound",  # Arabic
    "\u0631\u0646\u064a\u0646": "mri",
}
"""Words and beginnings of words of other scripts: what they mean in Latin letters."""
