"""Print what some extras of the installed library ask for, for pip: python extras.py langchain haystack ..."""

import importlib.metadata
import re
import sys

for requirement in importlib.metadata.requires("vqindex"):
    what, _, marker = requirement.partition(";")
    if (extra := re.search(r"""extra == ['"](.*?)['"]""", marker)) and extra[1] in sys.argv[1:]:
        print(what.replace(" ", ""))
