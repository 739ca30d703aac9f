"""What measures, compiles and tunes the kernels: command line, benchmarks, compile report, roofline."""
