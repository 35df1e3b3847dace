"""What pip writes for the console script, to be run where the package is not installed."""

import sys
from pathlib import Path


sys.path.insert(0, str(Path(__file__).parents[1] / "hf_addnorm" / "entry"))

from hf_addnorm_script import main


if __name__ == "__main__":
    main()
