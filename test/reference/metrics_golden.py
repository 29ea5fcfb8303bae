"""Writes metrics.json.gz: what rouge-score, SQuAD's evaluation and scikit-learn make of 500 pairs of generated texts and labels.

Needs rouge-score, scikit-learn and transformers (whose squad_metrics is SQuAD's evaluation script of version 2.0).
"""
import gzip
import json
import random
from pathlib import Path

from nltk.stem.porter import PorterStemmer
from rouge_score import rouge_scorer
from sklearn.metrics import accuracy_score, f1_score
from transformers.data.metrics.squad_metrics import compute_exact, compute_f1

HERE = Path(__file__).parent

# Words with every ending that the stemmer knows, articles, punctuation, numbers, other scripts and white space.
STEMS = ["bridg", "conn", "relat", "hop", "fall", "fizz", "agre", "plaster", "happ", "condition", "valen", "digit", "vietnam", "formal",
         "sensitiv", "triplic", "electr", "good", "reviv", "allow", "infer", "airlin", "adjust", "replac", "depend", "adopt", "commun",
         "activ", "angul", "homolog", "effect", "bowdler", "prob", "rat", "ceas", "control", "roll", "geo", "theo", "spann", "tri", "cr",
         "o", "y", "sa", "enjo", "pla", "str"]
ENDINGS = ["", "s", "es", "ies", "ied", "ed", "ing", "eed", "y", "ly", "er", "e", "ational", "tional", "enci", "anci", "izer", "ably",
           "ally", "ally's", "ently", "ely", "ously", "ization", "ation", "ator", "alism", "iveness", "fulness", "ousness", "ality",
           "ivity", "bility", "fully", "logy", "icate", "ative", "alize", "icity", "ical", "ful", "ness", "al", "ance", "ence", "ic",
           "able", "ible", "ant", "ement", "ment", "ent", "ion", "sion", "tion", "ou", "ism", "ate", "ity", "ous", "ive", "ize", "ll",
           "sses", "ss", "tt", "zz", "ying"]
EXTRA = ["a", "an", "the", "The", "AN", "sky", "skies", "dying", "lying", "news", "innings", "howe", "proceed", "exceed", "die", "dies",
         "tied", "7", "42nd", "3.14", "x-ray", "don't", "the-end", "a.", "(the)", "Ätna", "naïve", "żeglarz", "αβγ", "ан", "thé", "aé",
         "桥", "_the_", "a_b", "U.S.", "", "the", "of", "and", "in", "to"]
SPACES = [" ", " ", " ", "  ", "\n", "\t", "\u00a0", "\u3000", ", ", ". ", " - "]


def word(rng):
    if rng.random() < 0.35:
        return rng.choice(EXTRA)
    text = rng.choice(STEMS) + rng.choice(ENDINGS)
    return text.capitalize() if rng.random() < 0.2 else text


def text(rng, words):
    return "".join(each + rng.choice(SPACES) for each in words)


def pair(rng):
    reference = [word(rng) for _ in range(rng.randrange(0, 14))]
    prediction = [each for each in reference if rng.random() < 0.7]
    for _ in range(rng.randrange(0, 5)):
        prediction.insert(rng.randrange(0, len(prediction) + 1), word(rng))
    if rng.random() < 0.2:
        rng.shuffle(prediction)
    if rng.random() < 0.1:
        prediction = list(reference)
    return text(rng, prediction), text(rng, reference)


def main():
    rng = random.Random(13)
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    pairs = []
    for _ in range(500):
        prediction, reference = pair(rng)
        rouge = scorer.score(reference, prediction)
        pairs.append({
            "prediction": prediction, "reference": reference,
            **{name: rouge[name].fmeasure for name in ("rouge1", "rouge2", "rougeL")},
            "exact": compute_exact(reference, prediction), "f1": compute_f1(reference, prediction),
        })
    stemmer = PorterStemmer()
    words = sorted({(stem + ending).lower() for stem in STEMS for ending in ENDINGS} | {each.lower() for each in EXTRA if each.isascii()})
    labels = ["card", "cash", "transfer", "exchange", "loan"]
    classes = []
    for size in (1, 2, 5, 20, 500):
        actual = [rng.choice(labels[:4]) for _ in range(size)]
        predicted = [each if rng.random() < 0.6 else rng.choice(labels) for each in actual]
        classes.append({"predicted": predicted, "actual": actual, "macroF1": f1_score(actual, predicted, average="macro"),
                        "accuracy": accuracy_score(actual, predicted)})
    golden = {"pairs": pairs, "stems": {each: stemmer.stem(each) for each in words if each.isalnum()}, "classes": classes}
    with gzip.GzipFile(HERE / "metrics.json.gz", "wb", mtime=0) as file:
        file.write(json.dumps(golden, separators=(",", ":")).encode())


if __name__ == "__main__":
    main()
