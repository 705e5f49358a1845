"""A soak test of files and stores: writers and readers in processes of their own, killed and disturbed at random.

    make soak SOAK_SECONDS=600           (or PYTHONPATH=tests python -m soak --seconds 600 --seed 1)

Each round makes one ``.vqi`` file or one store. Writers change it and keep a journal of what they intend and of what
the library acknowledged; readers open it all the time. Everything that anyone finds must be one state of the journal:
the last one acknowledged, or one that was in flight. A vector is a function of its id and version, so every answer of a
search is known.

* ``model.py``: states, their vectors, and how an index is compared with them.
* ``journal.py``: the log of all writes, and which states may be found at a moment.
* ``subject.py``: a file and a store by the same calls.
* ``writer.py``, ``reader.py``: what the processes do. ``troubles.py``: interrupts, full disks, limits, moved folders.
* ``board.py``: counters in shared memory. ``rounds.py``: one round. ``main.py``: the command line.
"""
