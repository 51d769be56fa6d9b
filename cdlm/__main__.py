"""``python -m cdlm`` is ``cdlm``."""

import os
import sys

if __name__ == "__main__":
    # Python has put the working directory first, where a file may have the name of any package.
    if not sys.flags.safe_path and sys.path[0] != os.path.dirname(os.path.dirname(os.path.abspath(__file__))):
        del sys.path[0]
    from cdlm.cli.main import main

    main()
