"""Tables of results: which run stands where, what is averaged, how it is written down."""
