"""sentence-transformers: its trainer on a tiny BERT, with the contrastive loss over the batch."""

import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.losses import MultipleNegativesRankingLoss
from sentence_transformers.models import Pooling, Transformer
from transformers import BertConfig, BertModel, BertTokenizerFast

torch.manual_seed(0)
folder = Path(tempfile.mkdtemp())
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]
(folder / "vocab.txt").write_text("\n".join(words))
BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
BertModel(
    BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=16,
    )
).save_pretrained(folder)  # fmt: skip
encoder = Transformer(str(folder), max_seq_length=8)
model = SentenceTransformer(modules=[encoder, Pooling(16)], device="cpu")
pairs = {"anchor": list("abcdefgh"), "positive": list("bcdefghi")}
arguments = SentenceTransformerTrainingArguments(
    tempfile.mkdtemp(), max_steps=4, per_device_train_batch_size=4, report_to=[], use_cpu=True,
    disable_tqdm=True, save_strategy="no", logging_steps=1,
)  # fmt: skip
trainer = SentenceTransformerTrainer(
    model, arguments, Dataset.from_dict(pairs), loss=MultipleNegativesRankingLoss(model)
)
trainer.train()
print([entry.get("grad_norm") for entry in trainer.state.log_history])
