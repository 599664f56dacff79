# Prints the lines that the programs of `run --all` have written, in one table, with verdict.awk.
{ judge($1, $2, $3, $4 == "not measured" ? "" : $4 == "reached") }
END { exit tell() && check }
