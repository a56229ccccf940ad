"""How many tokens stay, what that costs, and where they lie on the image.

Pure; imports errors only.
"""
