module sluice/packaging/test

go 1.26.0
