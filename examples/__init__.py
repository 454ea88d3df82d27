"""The demonstration: a real small model, a stand-in for the Hub, and the whole road between them."""
