"""GPUs: their catalogue, their free memory, and the memory that engines were measured to take."""
