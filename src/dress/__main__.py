"""`python -m dress COMMAND …`, as `dress COMMAND …`."""

from dress.run.commands import main

if __name__ == "__main__":
    main()
