"""What pip writes for the console script, to be run where the package is not installed."""

from hf_addnorm_script import main


if __name__ == "__main__":
    main()
