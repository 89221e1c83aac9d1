"""Every source in C and C++, and what builds it."""
