"""What stands below all rooms: the exception for bad input, files that appear whole, folder locks,
the commands' parser.

Data sets and trainers take these from here and not from ``dassl``, because Dassl.pytorch, under
which they run as well, has nothing like them.
"""
