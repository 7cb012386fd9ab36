# shellcheck shell=bash
# Sourced by other scripts: what can be said about a port of this machine without curl.

# port_is_open PORT: whether something listens at 127.0.0.1:PORT.
port_is_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# free_port: prints a port that nothing listens at, below the range that the kernel gives to outgoing connections.
free_port() {
    local tries candidate
    for ((tries = 0; tries < 50; tries++)); do
        candidate=$((20000 + RANDOM % 12000))
        if ! port_is_open "$candidate"; then
            echo "$candidate"
            return 0
        fi
    done
    return 1
}

# is_healthy PORT: whether GET /health at 127.0.0.1:PORT is answered with 200.
is_healthy() {
    local answer
    {
        exec 3<>"/dev/tcp/127.0.0.1/$1" || return 1
        printf 'GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' >&3
        answer=$(timeout 5 cat <&3 | tr -d '\0')
        exec 3>&-
    } 2>/dev/null
    [[ $answer == HTTP/1.?\ 200* ]]
}
