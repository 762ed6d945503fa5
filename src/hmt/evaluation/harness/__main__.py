from hmt.evaluation.harness import main

main()
