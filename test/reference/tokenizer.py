"""Writes tokenizer.json beside this file: what the Python `tokenizers` library makes of some sentences.

Run as `python test/reference/tokenizer.py <model directory>` with `tokenizers` installed. The golden file in the repository was made from stories260K-hf.
"""

import json
import pathlib
import sys

from tokenizers import Tokenizer

SENTENCES = [
    "",
    " ",
    "Once upon a time, a small bridge wanted to cross a wide river.",
    "  Two spaces before,   three between, one after. ",
    "Tabs\tand\nnew lines\r\nshould come back as they were.\n\n",
    "UPPER lower MiXeD 0123456789 !?;:'\"()[]{}<>@#$%^&*-_=+|\\/~`",
    "Grüße aus Köln, señor, ça va? Žluťoučký kůň.",
    "Кошка сидит на мосту. Η γέφυρα είναι μακριά.",
    "桥的两端在自己的地上。橋は長い。다리는 길다.",
    "العربية وעברית",
    "Smile 😀 and wave 👋🏽, family 👨‍👩‍👧, flag 🇩🇪.",
    "e\u0301 is not \u00e9, but they look the same.",
    "zero\u200bwidth, no\u00a0break, soft\u00adhyphen, \u2581 block.",
    "A null \u0000 and a bell \u0007 in between.",
    "<s> and </s> and <unk> written out, <0x41> too.",
    "</s></s>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "The cat said: \"I can't, won't, shouldn't've!\" She laughed.",
]


def main() -> None:
    tokenizer = Tokenizer.from_file(str(pathlib.Path(sys.argv[1]) / "tokenizer.json"))
    cases = []
    for text in SENTENCES:
        ids = tokenizer.encode(text).ids
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        cases.append({
            "text": text,
            "ids": ids,
            "plain": plain,
            "decoded": tokenizer.decode(ids, skip_special_tokens=True),
            "decodedWithSpecial": tokenizer.decode(ids, skip_special_tokens=False),
        })
    path = pathlib.Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(cases, ensure_ascii=True, indent=1) + "\n")


if __name__ == "__main__":
    main()
