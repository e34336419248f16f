"""What is wrong with an answer that is not right, found without anyone having thought of it before.

faults      how an answer differs from the right one, or what was raised
slips       what a written answer becomes by one slip of the pen; changes: each slip
relations   how the numbers are related to the right ones; places: where they are not
"""
