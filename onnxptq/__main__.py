"""``python -m onnxptq``."""

from onnxptq.cli import main

raise SystemExit(main())
