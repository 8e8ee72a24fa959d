"""ultralytics: YOLO11n trained for three epochs on pictures made at random."""

import sys

from ultralytics import YOLO

model = YOLO("yolo11n.yaml")
model.train(
    data=sys.argv[1], epochs=3, imgsz=64, batch=2, workers=0, device="cpu", project=sys.argv[2],
    plots=False, save=False, val=False, amp=False, seed=0, verbose=False, nbs=8,
)  # fmt: skip
