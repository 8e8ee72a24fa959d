"""denoising-diffusion-pytorch: its Trainer, with accumulation, a clip and an average of weights."""

import sys

from denoising_diffusion_pytorch import GaussianDiffusion, Trainer, Unet

trainer = Trainer(
    GaussianDiffusion(Unet(dim=8, dim_mults=(1, 2)), image_size=16, timesteps=10),
    f"{sys.argv[1]}/images",
    train_batch_size=8,
    gradient_accumulate_every=2,
    train_num_steps=4,
    save_and_sample_every=4,
    num_samples=4,
    calculate_fid=False,
    results_folder=f"{sys.argv[1]}/results",
)
trainer.train()
