"""`python3 -m dev load`: mixed traffic on a platform of its own, with and without faults.

traffic.py offers requests at a rate, whatever is answered; phases.py breaks things; sampling.py
reads memory and CPU of each part; report.py and picture.py show what came of it; wall.py raises
the rate until a promise breaks. The rule a newcomer would break: callers never wait for each other,
or a slow answer would hide the requests that should have been offered meanwhile.
"""
