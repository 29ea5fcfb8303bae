"""The work of monolith.ts by PyTorch (eager), transformers and PEFT, in a process of its own.

Arguments: model directory, threads, adapter targets, LoRA's r and alpha, learning rate, largest gradient norm. A line of JSON on standard
input is a question, a line on standard output its answer, as monolith.ts has them.
"""
import json
import sys
import time

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, DynamicCache

path, threads, targets, r, alpha, learning_rate, max_norm = sys.argv[1:]
torch.set_num_threads(int(threads))
transformers.utils.logging.disable_progress_bar()
IGNORED = -100
PRODUCT = 2064


def load():
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


class Trainer:
    def __init__(self):
        config = LoraConfig(r=int(r), lora_alpha=int(alpha), lora_dropout=0.0, target_modules=[f"{target}_proj" for target in targets.split(",")])
        self.model = get_peft_model(load(), config)
        self.model.train()
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=float(learning_rate), weight_decay=0.0)

    def step(self, batch):
        ids = torch.tensor(batch)
        loss = self.model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, float(max_norm))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


made = {}


def once(name, make):
    if name not in made:
        made[name] = make()
    return made[name]


def timed(ms, run):
    start = time.perf_counter()
    result = run()
    ms.append((time.perf_counter() - start) * 1000)
    return result


def train(question, ms):
    trainer = once("trainer", Trainer)
    losses = [timed(ms, lambda: trainer.step(batch)) for batch in question["batches"]]
    return {"loss": losses[0]}


@torch.inference_mode()
def forward(question, ms):
    model = once("model", load)
    for _ in range(question["times"]):
        timed(ms, lambda: model(input_ids=torch.tensor(question["batch"]), use_cache=False).logits)
    return {}


@torch.inference_mode()
def generate(question, ms):
    model = once("model", load)
    cache = DynamicCache(config=model.config)
    ids = []

    def token(fresh):
        logits = model(input_ids=torch.tensor([fresh]), past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        ids.append(logits[0, -1].argmax().item())

    token(question["ids"])
    for _ in range(question["maxTokens"] - 1):
        timed(ms, lambda: token(ids[-1:]))
    return {"ids": ids}


@torch.inference_mode()
def product(question, ms):
    a, b = once("operands", lambda: (torch.randn(PRODUCT, PRODUCT), torch.randn(PRODUCT, PRODUCT)))
    for _ in range(question["times"]):
        timed(ms, lambda: (a @ b).sum().item())
    return {}


def say(answer):
    print(json.dumps(answer), flush=True)


say({"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__})
for line in sys.stdin:
    asked = json.loads(line)
    times = []
    more = {"train": train, "forward": forward, "generate": generate, "product": product}[asked["kind"]](asked, times)
    say({"ms": times, "ids": [], "loss": None, "cpuMs": 0, **more})
