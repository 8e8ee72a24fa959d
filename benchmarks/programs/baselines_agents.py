"""stable-baselines3: agents with one optimizer and with three, on two small worlds."""

from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC

AGENTS = (
    (PPO, "CartPole-v1", {"n_steps": 64, "batch_size": 32, "n_epochs": 2}, 128),
    (A2C, "CartPole-v1", {}, 20),
    (DQN, "CartPole-v1", {"learning_starts": 20, "batch_size": 16}, 40),
    (SAC, "Pendulum-v1", {"learning_starts": 20, "batch_size": 16}, 30),
    (DDPG, "Pendulum-v1", {"learning_starts": 20, "batch_size": 16}, 30),
)

for kind, world, options, steps in AGENTS:
    agent = kind("MlpPolicy", world, device="cpu", seed=0, **options)
    agent.learn(steps)
    print(kind.__name__, agent.predict(agent.get_env().reset())[0])
