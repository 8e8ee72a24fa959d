"""The Trainer of transformers: a tiny Llama, accumulation over two, clipping, a schedule."""

import tempfile

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

set_seed(0)
config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32,
)  # fmt: skip
model = LlamaForCausalLM(config)
rows = torch.randint(64, (24, 12))
data = [{"input_ids": row, "labels": row} for row in rows]
arguments = TrainingArguments(
    tempfile.mkdtemp(), per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=5,
    report_to=[], disable_tqdm=True, use_cpu=True, save_strategy="no", logging_steps=1,
    gradient_checkpointing=True,
)  # fmt: skip
trainer = Trainer(model, arguments, train_dataset=data)
trainer.train()
print([entry.get("grad_norm") for entry in trainer.state.log_history])
