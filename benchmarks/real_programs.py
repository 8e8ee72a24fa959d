"""Programs that other people wrote, with and without the tracer: same output, same parameters.

    python benchmarks/real_programs.py [--clones FOLDER] [--keep FOLDER] [--json FILE] [NAME ...]

Programs of libraries lie in `benchmarks/programs/`; a library that is not installed is left out.
Those of `--clones` are run as they stand in a clone of their repository, `FOLDER/owner+name` (none
of their code is kept here). Each runs twice with `benchmarks/witness` in the process, which takes a
digest of all parameters after each optimizer step: once alone, once under `gradtrace trace`. Then
the trace is read: every contribution must balance, and what `check` says is printed. Exit code 1 if
anything differed.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.util
import json
import os
import pty
import re
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tracer.analysis.balance import check_balance  # noqa: E402 - from this checkout, not installed
from tracer.errors import TracerError  # noqa: E402
from tracer.tracefile import load  # noqa: E402

TIMES = re.compile(
    r"(ms/batch|time|runtime|per_second|SPS)\W*[\d.]+\s*(ms|s)?|"
    r"[\d.]+(±[\d.]+)?\s*(ms|it/s|s/it|sec|seconds|s|MB/s|hours)\b|"
    r"mfu -?[\d.]+%|0x[0-9a-f]+|/tmp/\S+"
)
"""What differs between two runs of any program: times, speeds, addresses, temporary folders."""


@dataclass(frozen=True)
class Program:
    """What to run. `clone` is owner/name, `folder` where in it; `needs` a module to be there.

    `prepare` has files that the program reads, by name, made anew in the folder that `{data}` is;
    `made` names a script in `benchmarks/made` that makes others there, and its arguments. `copied`:
    it looks for files beside itself, and runs in a copy of its folder, `{data}/program` or what
    `inside` says. `options` are for the tracer. On `gpus` virtual devices it runs alone, too.
    """

    name: str
    words: tuple[str, ...]
    exercises: str
    needs: str = "torch"
    clone: str = ""
    folder: str = "."
    path: str = ""
    prepare: tuple[tuple[str, str], ...] = ()
    made: str = ""
    copied: bool = False
    inside: str = "program"
    gpus: int = 0
    options: tuple[str, ...] = ()
    ranks: int = 1
    wrong: tuple[str, ...] = ()
    """The checks that must find a warning or an error in it: what is wrong with the program."""
    seconds: int = 900


@dataclass
class Ended:
    """One run of a program; `seconds` of processor time, its children's too."""

    code: int
    out: str
    err: str
    seconds: float
    witness: dict[str, object] = field(default_factory=dict)


@dataclass
class Result:
    """The two runs of a program side by side."""

    name: str
    exercises: str
    plain_seconds: float = 0.0
    traced_seconds: float = 0.0
    steps: int = 0
    calls: int = 0
    contributions: int = 0
    megabytes: float = 0.0
    accounts: int = 0
    explained: int = 0
    unchecked: int = 0
    findings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


TEXT = "".join(
    f"the {noun} of {name} {verb} .\n"
    for noun in ("gradient", "weight", "loss", "step")
    for name in ("anna", "bert", "carl", "dora", "emil")
    for verb in ("falls", "grows", "stays")
)

LIBRARIES = (
    ("transformers_trainer", "transformers", "Trainer: accumulation, checkpointing, clip"),
    ("accelerate_loop", "accelerate", "accumulate(), sync_gradients, prepared optimizer"),
    ("lightning_trainer", "lightning", "closures in step(), two optimizers by hand, accumulation"),
    ("ignite_trainer", "ignite", "supervised trainer with accumulation, evaluation between"),
    ("skorch_classifier", "skorch", "closures in step(), cloned nets, grid search"),
    ("peft_lora", "peft", "adapters on a frozen model, clip"),
    ("opacus_private", "opacus", "gradients per sample, .grad written by the optimizer"),
    ("geometric_gcn", "torch_geometric", "scatter and gather over edges, masked loss"),
    ("metric_learning", "pytorch_metric_learning", "mined pairs, a loss with parameters"),
    ("sentence_encoder", "sentence_transformers", "trainer, in-batch contrastive loss"),
    ("torchrl_dqn", "torchrl", "tensordicts, functional calls, target network"),
    ("timm_loop", "timm", "four families, mixed targets, accumulation, clip, EMA"),
    ("fastai_learner", "fastai", "Learner, frozen layers, accumulation, one cycle"),
)

GANS = (
    ("aae", "an autoencoder against a critic of its code"),
    ("acgan", "a critic that classifies too"),
    ("cgan", "embedded labels"),
    ("ebgan", "a hinge of two losses, pairs of a batch"),
    ("gan", "two losses halved"),
    ("infogan", "three optimizers, two of them over the same parameters"),
    ("lsgan", "squares"),
    ("relativistic_gan", "each critic's answer against the mean of the others"),
    ("sgan", "a critic that classifies too, half of it"),
    ("wgan", "parameters clamped by hand, RMSprop"),
    ("wgan_div", "double backward to a power"),
    ("wgan_gp", "gradient penalty, double backward, critic steps"),
)
"""Of eriklindernoren/PyTorch-GAN, in a folder each; some others fail with the torch of today."""

LANGUAGE = (
    ("1-1.NNLM/NNLM", "a sum of two ways through a net"),
    ("1-2.Word2Vec/Word2Vec-Skipgram(Softmax)", "one-hot products"),
    ("2-1.TextCNN/TextCNN", "filters of three sizes"),
    ("3-1.TextRNN/TextRNN", "RNN"),
    ("3-2.TextLSTM/TextLSTM", "LSTM"),
    ("3-3.Bi-LSTM/Bi-LSTM", "LSTM both ways"),
    ("4-1.Seq2Seq/Seq2Seq", "a loss of each sample, added up"),
    ("4-2.Seq2Seq(Attention)/Seq2Seq(Attention)", "attention step by step"),
    ("4-3.Bi-LSTM(Attention)/Bi-LSTM(Attention)", "attention over an LSTM"),
    ("5-1.Transformer/Transformer", "SGD with momentum 0.99"),
    ("5-2.BERT/BERT", "two losses of a pair of sentences"),
)
"""Of graykode/nlp-tutorial; thousands of steps each, of which some are recorded."""

PROGRAMS = (
    *(
        Program(name, (str(HERE / "programs" / f"{name}.py"),), exercises, needs)
        for name, needs, exercises in LIBRARIES
    ),
    Program(
        "accelerate test_sync", ("-m", "accelerate.test_utils.scripts.test_sync"),
        "two ranks, DDP, no_sync, accumulate(), asserts on .grad", needs="accelerate", ranks=2,
        # Its plain model steps twice for each zero_grad, and its last window has one call of two.
        wrong=("missing-zero-grad", "short-window"),
    ),
    Program(
        "minGPT adder",
        ("adder.py", "--trainer.max_iters=30", "--trainer.num_workers=0", "--data.ndigit=1",
         "--trainer.batch_size=16"),
        "clip, AdamW groups", clone="karpathy/minGPT", folder="projects/adder", path="../..",
    ),
    Program(
        "nanoGPT",
        ("train.py", "config/train_shakespeare_char.py", "--device=cpu", "--compile=False",
         "--gradient_accumulation_steps=4", "--max_iters=6", "--eval_iters=1", "--block_size=32",
         "--batch_size=4", "--n_layer=3", "--n_embd=48", "--out_dir={data}"),
        "accumulation, tied weights, clip", needs="numpy", clone="karpathy/nanoGPT",
        made="shakespeare.py", copied=True,
    ),
    Program(
        "nanoGPT compiled",
        ("train.py", "config/train_shakespeare_char.py", "--device=cpu", "--compile=True",
         "--gradient_accumulation_steps=4", "--max_iters=6", "--eval_iters=1", "--block_size=32",
         "--batch_size=4", "--n_layer=3", "--n_embd=48", "--out_dir={data}"),
        "torch.compile, accumulation", needs="numpy", clone="karpathy/nanoGPT",
        made="shakespeare.py", copied=True,
    ),
    Program(
        "word LM",
        ("main.py", "--data", "{data}", "--epochs", "1", "--batch_size", "8", "--emsize", "64",
         "--nhid", "64", "--tied", "--save", "{data}/model.pt"),
        "no optimizer at all, clip, LSTM", clone="pytorch/examples",
        folder="word_language_model",
        prepare=(("train.txt", TEXT * 4), ("valid.txt", TEXT), ("test.txt", TEXT)),
    ),
    Program(
        "DCGAN",
        ("main.py", "--dataset", "fake", "--dry-run", "--batchSize", "8", "--workers", "0",
         "--manualSeed", "1", "--outf", "{data}"),
        "3 backward / 2 steps, detach", needs="torchvision", clone="pytorch/examples",
        folder="dcgan",
    ),
    Program(
        "mnist", ("main.py", "--epochs", "2"), "Adadelta, dropout", needs="torchvision",
        clone="pytorch/examples", folder="mnist", made="mnist.py", copied=True,
    ),
    Program(
        "REINFORCE", ("reinforce.py",), "another graph for each of hundreds of episodes",
        needs="gymnasium", clone="pytorch/examples", folder="reinforcement_learning",
        options=("--steps", "1:50"),
    ),
    Program(
        "pytorch-cifar", ("main.py",), "SimpleDLA, 200 epochs, five of them recorded",
        needs="torchvision", clone="kuangliu/pytorch-cifar", made="cifar.py", copied=True,
        options=("--steps", "1:5"), seconds=2400,
    ),
    Program(
        "pytorch-cifar on 2 GPUs", ("main.py",), "DataParallel, chunks of 3 and 2 images",
        needs="torchvision", clone="kuangliu/pytorch-cifar", made="cifar.py", copied=True,
        options=("--steps", "1:5"), gpus=2, seconds=2400,
    ),
    Program(
        "timm train.py",
        ("train.py", "{data}/images", "--model", "test_resnet", "--num-classes", "2", "--device",
         "cpu", "--epochs", "2", "--batch-size", "4", "--workers", "1", "--grad-accum-steps", "2",
         "--clip-grad", "1", "--model-ema", "--mixup", "0.2", "--output", "{data}/out"),
        "accumulation, clip, EMA, mixup, schedule", needs="torchvision",
        clone="huggingface/pytorch-image-models", made="folders.py",
    ),
    Program(
        "YOLOv5",
        ("train.py", "--weights", "", "--cfg", "yolov5n.yaml", "--data", "{data}/boxes/boxes.yaml",
         "--img", "64", "--batch-size", "2", "--epochs", "3", "--device", "cpu", "--workers", "0",
         "--noval", "--nosave", "--noplots", "--project", "{data}/out"),
        "irregular accumulation, EMA, warmup", needs="ultralytics", clone="ultralytics/yolov5",
        # At the start of an epoch it empties the buffers, and what the last one left in them.
        made="boxes.py", wrong=("lost-contributions",),
    ),
    Program(
        "ultralytics YOLO11",
        (str(HERE / "programs" / "ultralytics_yolo.py"), "{data}/boxes/boxes.yaml", "{data}/out"),
        "accumulation to a nominal batch, EMA, warmup", needs="ultralytics", made="boxes.py",
    ),
    Program(
        "vit-pytorch", (str(HERE / "programs" / "vit_learners.py"),),
        "Dino with its average, distillation, images of many sizes", needs="vit_pytorch",
    ),
    Program(
        "denoising-diffusion", (str(HERE / "programs" / "diffusion_trainer.py"), "{data}"),
        "Trainer: accumulation, clip, EMA, weights per sample",
        needs="denoising_diffusion_pytorch", made="folders.py 60",
    ),
    Program(
        "stable-baselines3", (str(HERE / "programs" / "baselines_agents.py"),),
        "PPO, A2C, DQN, SAC, DDPG: target nets, clip, three optimizers", needs="stable_baselines3",
    ),
    Program(
        "cleanrl PPO", ("cleanrl/ppo.py", "--no-cuda", "--total-timesteps", "1024"),
        "three terms in a loss, clip, lr annealed", needs="tyro", clone="vwxyzjn/cleanrl",
        copied=True,
    ),
    Program(
        "cleanrl SAC",
        ("cleanrl/sac_continuous_action.py", "--no-cuda", "--env-id", "Pendulum-v1",
         "--total-timesteps", "190", "--learning-starts", "150"),
        "four optimizers, losses through the other's net", needs="tyro", clone="vwxyzjn/cleanrl",
        path=".", copied=True,
    ),
    Program(
        "cleanrl TD3",
        ("cleanrl/td3_continuous_action.py", "--no-cuda", "--env-id", "Pendulum-v1",
         "--total-timesteps", "190", "--learning-starts", "150"),
        "delayed actor, twin critics", needs="tyro", clone="vwxyzjn/cleanrl", path=".",
        copied=True,
    ),
    Program(
        "makemore",
        ("makemore.py", "-i", "{data}/program/names.txt", "-o", "{data}/out", "--device", "cpu",
         "--max-steps", "20"),
        "targets left out by a mask", clone="karpathy/makemore", copied=True,
    ),
    Program(
        "SAM",
        ("example/train.py", "--depth", "10", "--width_factor", "1", "--epochs", "2",
         "--batch_size", "2", "--threads", "0"),
        "two calls a step, weights moved between", needs="torchvision", clone="davda54/sam",
        path=".", made="cifar.py program/data program/cifar", copied=True,
    ),
    Program(
        "pygcn", ("pygcn/train.py", "--epochs", "5"), "sparse adjacency, custom layers",
        needs="scipy", clone="tkipf/pygcn", path=".", made="cora.py", copied=True,
    ),
    Program(
        "Pytorch-UNet", ("train.py", "--epochs", "2", "--scale", "0.5", "--batch-size", "2"),
        "two losses added, dice, clip, RMSprop", needs="wandb", clone="milesial/Pytorch-UNet",
        made="masks.py", copied=True,
    ),
    Program(
        "VAE", ("main.py", "--epochs", "1", "--batch-size", "32"), "two sums added",
        needs="torchvision", clone="pytorch/examples", folder="vae", made="mnist.py", copied=True,
    ),
    Program(
        "siamese", ("main.py", "--epochs", "1", "--dry-run"), "one net used twice",
        needs="torchvision", clone="pytorch/examples", folder="siamese_network",
        made="mnist.py", copied=True,
    ),
    Program(
        "mnist RNN", ("main.py", "--epochs", "1"), "an LSTM over the rows of an image",
        needs="torchvision", clone="pytorch/examples", folder="mnist_rnn", made="mnist.py",
        copied=True,
    ),
    Program(
        "forward-forward", ("main.py", "--epochs", "2", "--train_size", "64", "--test_size", "32"),
        "an optimizer in each layer, losses of one layer", needs="torchvision",
        clone="pytorch/examples", folder="mnist_forward_forward",
        made="mnist.py program/data", copied=True,
    ),
    Program(
        "regression", ("main.py",), "parameters changed by hand, no optimizer",
        clone="pytorch/examples", folder="regression",
    ),
    Program(
        "actor critic", ("actor_critic.py",), "two losses of a list each, graphs of any size",
        needs="gymnasium", clone="pytorch/examples", folder="reinforcement_learning",
        options=("--steps", "1:50"),
    ),
    *(
        Program(
            f"PyTorch-GAN {name}", (f"{name}.py", "--n_epochs", "1", "--batch_size", "32"),
            exercises, needs="torchvision", clone="eriklindernoren/PyTorch-GAN",
            folder=f"implementations/{name}", made="mnist.py data/mnist",
            copied=True, inside="implementations/program",
        )
        for name, exercises in GANS
    ),
    *(
        Program(
            f"nlp-tutorial {name.rpartition('/')[2]}", (f"{name}.py",), exercises,
            needs="matplotlib", clone="graykode/nlp-tutorial", copied=True,
            options=("--every", "100"),
        )
        for name, exercises in LANGUAGE
    ),
)  # fmt: skip


def main() -> int:
    options = read_options()
    chosen = [p for p in PROGRAMS if not options.names or p.name in options.names]
    results, left_out = [], []
    for program in chosen:
        why = missing(program, options.clones)
        if why:
            left_out.append(f"{program.name}: {why}")
            continue
        with place_for(program, options.keep) as folder:
            result = compare(program, options.clones, folder)
        results.append(result)
        print(line_of(result), flush=True)
    print(f"\n{len(results)} programs, {sum(bool(r.problems) for r in results)} with problems")
    for line in left_out:
        print(f"left out  {line}")
    if options.json:
        document = {"results": [asdict(result) for result in results], "left_out": left_out}
        options.json.write_text(json.dumps(document, indent=2), encoding="utf-8")
    return int(any(result.problems for result in results))


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these programs")
    parser.add_argument("--clones", type=Path, help="a folder with clones, owner+name each")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the traces there")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    return parser.parse_args()


@contextmanager
def place_for(program: Program, keep: Path | None) -> Iterator[Path]:
    """An empty folder for the traces of a program."""
    if keep is None:
        with tempfile.TemporaryDirectory() as name:
            yield Path(name)
        return
    folder = keep / program.name.replace(" ", "_")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield folder.resolve()


def missing(program: Program, clones: Path | None) -> str:
    """Why a program cannot be run here, "" if it can."""
    if importlib.util.find_spec(program.needs) is None:
        return f"{program.needs} is not installed"
    if program.clone and (clones is None or not place_of(program, clones).is_dir()):
        return f"no clone of {program.clone}"
    return ""


def place_of(program: Program, clones: Path) -> Path:
    return (clones / program.clone.replace("/", "+") / program.folder).resolve()


def compare(program: Program, clones: Path | None, folder: Path) -> Result:
    """Run a program twice; what is the same and what is not. Its traces stay in the folder."""
    result = Result(program.name, program.exercises)
    trace = folder / "run.trace"
    alone, cli = starts_of(program, trace)
    plain = run(program, clones, folder / "plain", alone)
    traced = run(program, clones, folder / "traced", cli)
    result.plain_seconds, result.traced_seconds = plain.seconds, traced.seconds
    result.steps = int(str(plain.witness.get("steps", 0)))
    if program.ranks > 1:  # they write at once: the letters are the same, the order is not
        for one in (plain, traced):
            one.out = "".join(sorted(one.out))
    result.problems += differences(plain, traced)
    traces = sorted(folder.glob("run*.trace"))
    if len(traces) != program.ranks:
        result.problems.append(f"{len(traces)} traces of {program.ranks} ranks")
    for path in traces:
        read_books(path, result)
    result.findings = list(findings_of(traces))
    result.problems += wrong_claims(program, result.findings)
    return result


def starts_of(program: Program, trace: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What stands before the script, alone and traced."""
    alone: tuple[str, ...] = ()
    traced = (str(HERE.parent / "cli.py"), "trace", "--no-svg", "-o", str(trace))
    traced += program.options
    if program.ranks > 1:
        ranks = ("--nproc-per-node", str(program.ranks))
        alone, traced = ("-m", "torch.distributed.run", *ranks), (*traced, *ranks)
    if program.gpus:
        alone = (str(HERE / "on_gpus.py"), str(program.gpus))
        traced += ("--gpus", str(program.gpus))
    return alone, traced


def run(program: Program, clones: Path | None, data: Path, before: Sequence[str]) -> Ended:
    """One run, in the clone or in a folder of its own; `{data}` is that folder."""
    data.mkdir()
    for name, text in program.prepare:
        (data / name).write_text(text, encoding="utf-8")
    if program.made:
        made, *more = program.made.split()
        subprocess.run([sys.executable, str(HERE / "made" / made), str(data), *more], check=True)
    place = place_of(program, clones) if program.clone and clones is not None else data
    if program.copied:
        place = Path(shutil.copytree(place, data / program.inside, dirs_exist_ok=True))
    witness = data / "witness.json"
    paths = [str(HERE / "witness"), *([str((place / program.path).resolve())] * bool(program.path))]
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(paths), "WITNESS": str(witness),
        "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0",
        "ACCELERATE_USE_CPU": "true", "TOKENIZERS_PARALLELISM": "false",
        "YOLO_CONFIG_DIR": str(data / "config"), "YOLOV5_CONFIG_DIR": str(data / "config"),
        "WANDB_MODE": "disabled", "MPLBACKEND": "agg",
    }  # fmt: skip
    words = [word.replace("{data}", str(data)) for word in program.words]
    used = processor_time()
    with terminal() as keyboard:
        done = ended(
            [sys.executable, *before, *words], cwd=place, env=environment, stdin=keyboard,
            timeout=program.seconds,
        )  # fmt: skip
    seconds = processor_time() - used
    seen = json.loads(witness.read_text(encoding="utf-8")) if witness.exists() else {}
    shutil.rmtree(data)
    return Ended(
        done.returncode, done.stdout.replace(str(data), "DATA"), done.stderr, seconds, seen
    )


def processor_time() -> float:
    """Seconds of the children that have ended; other work on the machine changes them little."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def ended(words: Sequence[str], timeout: int, **how: Any) -> subprocess.CompletedProcess[str]:
    """A child that has ended, or was ended as it took too long; code 124 then, as of `timeout`."""
    try:
        return subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=timeout, **how
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 124, "", f"no end after {timeout} s")


@contextmanager
def terminal() -> Iterator[int]:
    """A terminal at which nobody types: some programs ask how wide theirs is."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 40, 120, 0, 0))
    try:
        yield slave
    finally:
        os.close(slave)
        os.close(master)


def differences(plain: Ended, traced: Ended) -> Iterator[str]:
    if plain.code:
        yield f"alone it ends with {plain.code}: {last_line(plain.err)}"
    if plain.code != traced.code:
        yield f"exit code {plain.code} alone, {traced.code} traced: {last_line(traced.err)}"
    ours, theirs = (lines_of(run.out) for run in (traced, plain))
    different = [pair for pair in zip(theirs, ours, strict=False) if pair[0] != pair[1]]
    if different or len(ours) != len(theirs):
        yield f"output differs: {different[:1] or (len(theirs), len(ours))}"
    for key, value in plain.witness.items():
        if traced.witness.get(key) != value:
            yield f"{key} of parameters: {value} alone, {traced.witness.get(key)} traced"
    if not plain.witness:
        yield "the witness saw nothing"
    if "recording stopped" in traced.err or "the tracer failed" in traced.err:
        yield last_line(traced.err)


def lines_of(out: str) -> list[str]:
    """What was printed, times aside; bars of progress are drawn as often as there is time."""
    return [line for line in TIMES.sub("#", out).splitlines() if "━" not in line]


def last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:200]


def read_books(path: Path, result: Result) -> None:
    """Add up every contribution of the trace."""
    try:
        with load(path) as trace:
            report = check_balance(trace)
            sizes: dict[int, int] = {}
            for call in trace.calls:
                if call.layout not in sizes:
                    sizes[call.layout] = len(trace.layout(call.layout).contributions)
                result.contributions += sizes[call.layout]
            result.calls += len(trace.calls)
            result.megabytes += path.stat().st_size / 1e6
            if trace.info.failure:
                result.problems.append(f"recording stopped: {trace.info.failure}")
    except TracerError as error:
        result.problems.append(str(error))
        return
    result.accounts += report.fan_ins + report.buffers + report.captures
    result.explained += report.explained
    result.unchecked += report.unchecked
    result.problems += [f"unbalanced: {one}" for one in report.imbalances[:3]]
    if not result.calls:
        result.problems.append("no backward call was recorded")


def findings_of(traces: Sequence[Path]) -> Iterator[str]:
    """What `check` says, `severity slug` each."""
    words = (str(HERE.parent / "cli.py"), "check", "--json", *map(str, traces))
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        yield f"error {last_line(done.stderr).split(chr(32))[0]}"
        return
    for finding in json.loads(done.stdout)["findings"]:
        yield f"{finding['severity']} {finding['check']}"


def wrong_claims(program: Program, findings: Sequence[str]) -> Iterator[str]:
    """Warnings of what is correct, and what is wrong and was not found."""
    warned = {slug for severity, slug in map(str.split, findings) if severity != "note"}
    for slug in sorted(warned ^ set(program.wrong)):
        yield f"check {'warns of' if slug in warned else 'does not find'} {slug}"


def line_of(result: Result) -> str:
    line = (
        f"{result.name:22s} {result.plain_seconds:6.1f} s -> {result.traced_seconds:6.1f} s "
        f"(x {result.traced_seconds / max(result.plain_seconds, 0.01):.2f}) "
        f"{result.steps:4d} steps {result.calls:5d} calls {result.contributions:8d} contributions "
        f"{result.accounts:8d} accounts balance ({result.explained} by hooks, "
        f"{result.unchecked} unmeasured) {result.megabytes:6.1f} MB  {result.exercises}"
    )
    findings = [f"{count} {what}" for what, count in Counter(result.findings).items()]
    line += f"; check: {', '.join(findings) or 'nothing'}"
    return "\n".join([line, *(f"    PROBLEM {problem}" for problem in result.problems)])


if __name__ == "__main__":
    sys.exit(main())
