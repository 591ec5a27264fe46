"""Small models of the real architectures, trained on procedural scenes: training, shipped form, facts about them."""
