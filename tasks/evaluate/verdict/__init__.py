"""The verdict: is a candidate no worse than production, by a margin, at a confidence, on the same items?"""
