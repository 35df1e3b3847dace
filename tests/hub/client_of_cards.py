"""A client process of the Hub of the tests: pushes a model as a user would, and says what its card became.

Usage: python client_of_cards.py FOLDER, which holds a saved model.
"""

import sys

import transformers
from huggingface_hub import HfApi, ModelCard

import hf_addnorm  # noqa: F401 - registers the families


transformers.utils.logging.disable_progress_bar()
api = HfApi()
model = transformers.AutoModelForSequenceClassification.from_pretrained(sys.argv[1])

# the tokenizer first: Transformers then puts a card there that nobody wrote
words = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello"])}
transformers.BertTokenizer(vocab=words).push_to_hub("ann/net")
assert "automatically generated" in ModelCard.load("ann/net").text
model.push_to_hub("ann/net", tags=["mine"])
card = ModelCard.load("ann/net")
assert "x <- N((2L)^(1/4) x + F(x))" in card.text and 'from_pretrained("ann/net", trust_remote_code=True)' in card.text
assert {"hf_addnorm", "deepnorm", "mine"} <= set(card.data.tags), card.data.tags

# the same again is no new commit
commits = len(api.list_repo_commits("ann/net"))
model.push_to_hub("ann/net", tags=["mine"])
assert len(api.list_repo_commits("ann/net")) == commits

# what somebody wrote stays
ModelCard(card.content.replace("## Limits", "## Limits\n\n- It is for cats.")).push_to_hub("ann/net")
model.push_to_hub("ann/net")
assert "It is for cats." in ModelCard.load("ann/net").text

# by saving, too
model.save_pretrained("elsewhere", push_to_hub=True, repo_id="ann/other")
assert "(2L)^(1/4)" in ModelCard.load("ann/other").text
sys.stdout.write("done\n")
