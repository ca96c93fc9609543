module sluice/clients

go 1.26.0

require (
	github.com/DataDog/datadog-go/v5 v5.9.1
	github.com/cactus/go-statsd-client/v5 v5.1.0
	github.com/prometheus/client_model v0.6.3
	github.com/prometheus/common v0.72.0
	sluice v0.0.0
)

require (
	github.com/Microsoft/go-winio v0.5.0 // indirect
	github.com/munnerz/goautoneg v0.0.0-20191010083416-a7dc8b61c822 // indirect
	golang.org/x/sys v0.49.0 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)

replace sluice => ../..
