# The client Net::Statsd, Debian's libnet-statsd-perl.
use strict;
use warnings;
BEGIN { *CORE::GLOBAL::rand = sub { 0 } }    # the client samples by chance; now it takes all
use Net::Statsd;
use Time::HiRes ();

$Net::Statsd::HOST = $ENV{STATSD_HOST};
$Net::Statsd::PORT = $ENV{STATSD_PORT};
my $n = 500;
my ( $requests, $time ) = ( 0, 0 );
for my $i ( 0 .. $n - 1 ) {
    Net::Statsd::update_stats( 'pl.requests', $i % 5 );
    $requests += $i % 5;
    Net::Statsd::increment( [ 'pl.a', 'pl.b' ] );
    Net::Statsd::decrement('pl.stock');
    Net::Statsd::update_stats( 'pl.sampled', 3, 0.25 );
    Net::Statsd::gauge( 'pl.temperature' => $i - 250.5 );
    Net::Statsd::timing( 'pl.time' => $i, 0.5 );
    $time += $i;
    Time::HiRes::sleep(0.002) if $i % 20 == 19;
}

print "samples ", 7 * $n, "\n";
print "counter pl.requests - $requests\n";
print "counter pl.$_ - $n\n" for qw(a b);
print "counter pl.stock - -$n\n";
print "counter pl.sampled - ", 12 * $n, "\n";
print "gauge pl.temperature - ", $n - 1 - 250.5, "\n";
print "distribution pl.time - ", 2 * $n, ' ', 2 * $time, ' 0 ', $n - 1, "\n";
