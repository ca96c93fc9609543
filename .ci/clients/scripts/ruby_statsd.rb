# The client reinh/statsd, Debian's ruby-statsd: ruby_statsd.rb plain|batch
require "statsd"

N = 500
client = Statsd.new(ENV["STATSD_HOST"], ENV["STATSD_PORT"].to_i)
client.namespace = "rb"
class Statsd
  def rand = 0.0 # the client samples by chance; now it takes all
end

def measure(c, i)
  c.count "requests", i % 5
  c.decrement "stock"
  c.count "sampled", 3, 0.25
  c.gauge "temperature", i - 250.5
  c.gauge "Shop::queue", i
  c.timing "time", i / 2.0, 0.5
  c.set "users", "user-#{i % 61}"
end

if ARGV[0] == "batch"
  client.batch_size = 40
  client.batch_byte_size = 1400
  (0...N).each_slice(50) do |slice|
    client.batch { |b| slice.each { |i| measure b, i } }
    sleep 0.002
  end
else
  N.times do |i|
    measure client, i
    sleep 0.002 if i % 20 == 19
  end
end

puts "samples #{7 * N}"
puts "counter rb.requests - #{(0...N).sum { |i| i % 5 }}"
puts "counter rb.stock - #{-N}"
puts "counter rb.sampled - #{12 * N}"
puts "gauge rb.temperature - #{N - 1 - 250.5}"
puts "gauge rb.Shop.queue - #{N - 1}"
puts "distribution rb.time - #{2 * N} #{(0...N).sum} 0 #{(N - 1) / 2.0}"
puts "set rb.users - " + (0...61).map { |i| "user-#{i}" }.join(" ")
