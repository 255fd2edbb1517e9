"""The tables and figures of the paper as studies: `python main.py --mode=study --config=configs/studies/table8.py`."""
