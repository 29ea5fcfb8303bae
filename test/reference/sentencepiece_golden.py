"""Trains small SentencePiece models and writes what the `sentencepiece` library makes of some texts with them.

Run as `python test/reference/sentencepiece_golden.py`: writes sentencepiece/*.model and sentencepiece/golden.json beside this file.
With `--fuzz DIR SEEDS` it writes many more models and texts to DIR, for a check outside the repository.
"""
import io
import json
import random
import sys
from pathlib import Path

import sentencepiece as spm

HERE = Path(__file__).parent / 'sentencepiece'

WORDS = ('bridge river cross carry stone water light under over between small large old new span end middle begin house tree road '
         'walk run think say see know the a an of to and in it is was for on are as with his they at be this from have or').split()
OTHER = ['Brücke', 'Straße', 'café', 'naïve', 'мост', 'река', 'γέφυρα', '桥', '河流', '长桥', '橋は', '長い', '다리', 'ﬁne', 'Ⅳ', '①', '２０２６', 'e\u0301t']
SAMPLES = [
    '', ' ', '   ', '\n', 'a', ' a', 'a ', '  two  spaces   three ', '\t tab\tand\nnew line\r\n', 'The old bridge crosses the river.',
    'the middle of the bridge', 'Brücke café naïve Straße', 'мост через реку', '长桥在河流上。橋は長い。', 'ﬁne Ⅳ ① ２０２６ \u3000ideographic　space', 'e\u0301 and \u00e9',
    'Smile 😀 and 👨‍👩‍👧 flag 🇩🇪', 'zero\u200bwidth no\u00a0break soft\u00adhyphen', '\u2581 block \u2581\u2581', 'nul \u0000 bell \u0007', '<s> </s> <unk> <0x41> written out',
    'aaaaaaaaaaaaaaaa', 'aaabaaab', 'xyzzyx qqq ÿÿÿ ŋ', '<user> says <user><user>x', '<n><n> [sep]the[sep] bridge', 'ＡＢＣ ａｂｃ ｱｲｳ', '½ ² ™ …', '\ufffd\ufeffx', 'ßẞ İi', 'a\u0300\u0301\u0302',
]

# Longest match wins; one rule deletes, one makes spaces, one makes several characters of one.
RULES = {'ﬁ': 'fi', 'Ⅳ': 'IV', '①': '1', '\u3000': ' ', '\u00a0': ' ', '\t': ' ', '\n': ' ', '\r\n': ' ', '\u00ad': '', '\u200b': '', 'e\u0301': 'é', 'a\u0300\u0301': 'ä', '２': '2', '０': '0', '６': '6', '½': '1 / 2', 'Ａ': 'A', '…': '...'}


def corpus(rng, lines):
    for _ in range(lines):
        words = [rng.choice(OTHER) if rng.random() < 0.12 else rng.choice(WORDS) for _ in range(rng.randint(2, 14))]
        words = [w.capitalize() if rng.random() < 0.15 else w for w in words]
        yield ' '.join(words) + rng.choice(['', '.', '!', '?', ', and so on.', '  twice  '])


def rules_file(path):
    path.write_text(''.join(f"{' '.join(f'{ord(c):X}' for c in k)}\t{' '.join(f'{ord(c):X}' for c in v)}\n" for k, v in RULES.items()))
    return str(path)


def train(seed, **options):
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(sentence_iterator=corpus(random.Random(seed), 1500), model_writer=model, hard_vocab_limit=False, minloglevel=2, num_threads=1, **options)
    return model.getvalue()


def with_types(model, types):
    """Marks pieces, by their place, as of another type."""
    from sentencepiece import sentencepiece_model_pb2
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    for place, kind in types.items():
        if place < len(proto.pieces):
            proto.pieces[place].type = kind
    return proto.SerializeToString()


def cases(model, texts, rng):
    processor = spm.SentencePieceProcessor(model_proto=model)
    size = processor.get_piece_size()
    encoded = [{'text': text, 'ids': processor.encode(text), 'decoded': processor.decode(processor.encode(text))} for text in texts]
    decoded = [{'ids': ids, 'text': processor.decode(ids)} for ids in ([rng.randrange(size) for _ in range(rng.randint(0, 12))] for _ in range(len(texts)))]
    return {'encoded': encoded, 'decoded': decoded}


def spaced(text):
    """ChatGLM-6B's pre-processing (_preprocess and _encode_whitespaces of its tokenization_chatglm.py)."""
    text = text.replace('\n', '<n>').replace('\t', '<|tab|>')
    for length in range(80, 1, -1):
        text = text.replace(' ' * length, f'<|blank_{length}|>')
    return text


def unspaced(text):
    text = text.replace('<n>', '\n').replace('<|tab|>', '\t')
    for length in range(2, 81):
        text = text.replace(f'<|blank_{length}|>', ' ' * length)
    return text


def chatglm(base):
    """ChatGLM-6B's tokens over a model of text pieces alone: special tokens, blanks and bytes follow, ids begin after 20000 for images."""
    from sentencepiece import sentencepiece_model_pb2 as pb2
    proto = pb2.ModelProto.FromString(base)
    proto.trainer_spec.byte_fallback = True
    for token in ['[MASK]', '[gMASK]', '[sMASK]', '<unused_0>', '<sop>', '<eop>', '<ENC>', '<dBLOCK>']:
        proto.pieces.add(piece=token, score=0, type=3)
    for token in ['<|tab|>'] + [f'<|blank_{length}|>' for length in range(2, 81)]:
        proto.pieces.add(piece=token, score=0, type=4)
    for byte in range(256):
        proto.pieces.add(piece=f'<0x{byte:02X}>', score=0, type=6)
    processor = spm.SentencePieceProcessor(model_proto=proto.SerializeToString())
    close = [processor.piece_to_id('[gMASK]'), processor.piece_to_id('<sop>')]
    texts = [text for text in SAMPLES if '<s>' not in text] + ['a' + ' ' * 79 + 'b', ' ' * 163, 'line\n\n  indented\n\tdeeper   ']
    encoded = [(text, processor.encode(spaced(text))) for text in texts]
    return {'pieces': processor.get_piece_size(), 'cases': [{'text': text, 'ids': [20000 + i for i in ids + close], 'decoded': unspaced(processor.decode(ids))} for text, ids in encoded]}


def prompts():
    """The prompts that chat() of ChatGLM-6B and build_prompt of ChatGLM2 make of a history and a question."""
    rounds = [('你好', '你好👋！'), ('What is\na bridge?', 'A way over.')]
    result = []
    for count in range(len(rounds) + 1):
        history, question = rounds[:count], '晚上睡不着怎么办'
        first = question if count == 0 else ''.join(f'[Round {i}]\n问：{q}\n答：{a}\n' for i, (q, a) in enumerate(history)) + f'[Round {count}]\n问：{question}\n答：'
        second = ''.join(f'[Round {i + 1}]\n\n问：{q}\n\n答：{a}\n\n' for i, (q, a) in enumerate(history)) + f'[Round {count + 1}]\n\n问：{question}\n\n答：'
        result.append({'history': history, 'question': question, 'chatglm': first, 'chatglm2': second})
    return result


def committed():
    HERE.mkdir(exist_ok=True)
    rules = rules_file(HERE / 'rules.tsv')
    llama = dict(normalization_rule_name='identity', remove_extra_whitespaces=False, byte_fallback=True)
    models = {
        'llama': train(1, model_type='bpe', vocab_size=500, **llama, allow_whitespace_only_pieces=True, split_digits=True),
        'bpe-rules': train(2, model_type='bpe', vocab_size=300, normalization_rule_tsv=rules, user_defined_symbols=['<user>', '<n>', 'the'], control_symbols=['[sep]']),
        'unigram-rules': train(3, model_type='unigram', vocab_size=300, normalization_rule_tsv=rules, character_coverage=0.995),
        'unigram-bytes': train(4, model_type='unigram', vocab_size=500, **llama, user_defined_symbols=['<user>', '<n>'], control_symbols=['[sep]']),
        'suffix': train(5, model_type='unigram', vocab_size=200, normalization_rule_name='identity', treat_whitespace_as_suffix=True),
        'no-prefix': train(6, model_type='bpe', vocab_size=200, normalization_rule_name='identity', add_dummy_prefix=False, remove_extra_whitespaces=False),
    }
    models['unused'] = with_types(models['bpe-rules'], {place: 5 for place in range(8, 60, 3)})
    golden = {}
    for name, model in models.items():
        (HERE / f'{name}.model').write_bytes(model)
        golden[name] = cases(model, SAMPLES + list(corpus(random.Random(99), 10)), random.Random(7))
    (HERE / 'rules.tsv').unlink()
    ice = train(8, model_type='unigram', vocab_size=250, normalization_rule_name='identity', remove_extra_whitespaces=False, user_defined_symbols=['<n>'], bos_id=-1, eos_id=-1)
    (HERE / 'ice_text.model').write_bytes(ice)
    (HERE / 'chatglm.json').write_text(json.dumps({**chatglm(ice), 'prompts': prompts()}, ensure_ascii=True, separators=(',', ':')).replace('{"text"', '\n{"text"') + '\n')
    (HERE / 'golden.json').write_text(json.dumps(golden, ensure_ascii=True, separators=(',', ':')).replace('{"text"', '\n{"text"') + '\n')


def fuzz(directory, seeds):
    directory.mkdir(exist_ok=True)
    rules = rules_file(directory / 'rules.tsv')
    golden = {}
    alphabet = list('abcdefgh  ') + [c for w in OTHER for c in w] + list(RULES) + ['<user>', '\n', '\u2581', '😀', '\u0000', 'aa', 'the ', '㍿', 'ﷺ', 'Å', '가', '가', '゙', 'か', '\u2003', '\u2028']
    for seed in range(seeds):
        rng = random.Random(seed)
        normal = rng.choice([dict(normalization_rule_name=n) for n in ['identity', 'nfkc', 'nmt_nfkc', 'nmt_nfkc_cf', 'nfkc_cf']] + [dict(normalization_rule_tsv=rules)])
        model = train(seed, model_type=rng.choice(['bpe', 'unigram']), vocab_size=rng.choice([350, 450, 600]), byte_fallback=rng.random() < 0.5, add_dummy_prefix=rng.random() < 0.7,
                      remove_extra_whitespaces=rng.random() < 0.5, treat_whitespace_as_suffix=rng.random() < 0.2, split_by_whitespace=rng.random() < 0.7,
                      user_defined_symbols=rng.choice([[], ['<user>', 'the'], ['ab', 'abc', ' x']]), **normal)
        if rng.random() < 0.3:
            model = with_types(model, {place: 5 for place in range(320, 345, 2)})
        (directory / f'{seed}.model').write_bytes(model)
        texts = [''.join(rng.choice(alphabet) for _ in range(rng.randint(0, 40))) for _ in range(150)] + SAMPLES
        golden[str(seed)] = cases(model, texts, rng)
    (directory / 'golden.json').write_text(json.dumps(golden))


if __name__ == '__main__':
    if sys.argv[1:2] == ['--fuzz']:
        fuzz(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        committed()
