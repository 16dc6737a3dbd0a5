"""What the paper says (published/*.csv) and what was measured here (ours/*.jsonl), as tables, figures and one page."""
