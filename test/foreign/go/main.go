// Command foreign speaks to a Midspan server through go-libp2p, as docs/wire.md says. It knows nothing else of Midspan.
//
// Each peer is a new identity. It opens streams of a protocol that strangers are refused on, says hello, and reads each stream to its end.
// One line of JSON on standard output says what came of each stream. With -session, it reads the bytes of a session in a file instead.
package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"google.golang.org/protobuf/encoding/protowire"
)

const (
	helloProtocol  = "/midspan/hello/1.0.0"
	statusProtocol = "/midspan/status/1.0.0"
	// A frame of the control protocols is smaller.
	maxFrameBytes = 4 << 20
	timeout       = 30 * time.Second
)

// result is what came of one stream.
type result struct {
	Protocol string `json:"protocol"`
	// Welcome, refusal or failure; empty where nothing came.
	Answer string `json:"answer"`
	Code   string `json:"code,omitempty"`
	Field  string `json:"field,omitempty"`
	// Bytes of the charter that came after a welcome, and those that the welcome promised.
	CharterBytes  int    `json:"charterBytes"`
	CharterLength uint64 `json:"charterLength"`
	// How the stream ended: "end" or an error.
	Ended string `json:"ended"`
}

func main() {
	address := flag.String("address", "", "multiaddr of the server, with its peer id")
	invite := flag.String("invite", "", "an invite's line; none unless given")
	advertise := flag.String("advertise", "", "the role that the peer advertises; none unless given")
	peers := flag.Int("peers", 1, "how many peers come, one after another")
	refused := flag.Int("refused", 0, "streams of each peer that are refused because it has not said hello")
	session := flag.String("session", "", "a file with the bytes of a session; nothing is dialled")
	flag.Parse()
	if *session != "" {
		if err := showSession(*session); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if err := run(*address, *invite, *advertise, *peers, *refused); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func showSession(path string) error {
	client, server, err := openSession(path)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"client": client, "server": server})
}

func run(address, invite, advertise string, peers, refused int) error {
	info, err := peer.AddrInfoFromString(address)
	if err != nil {
		return err
	}
	inviteBytes, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(invite, "midspan:"))
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	for range peers {
		results, err := visit(*info, inviteBytes, advertise, refused)
		if err != nil {
			return err
		}
		for _, each := range results {
			if err := out.Encode(each); err != nil {
				return err
			}
		}
	}
	return nil
}

// visit connects as a new peer, has streams refused, says hello, and hangs up.
func visit(server peer.AddrInfo, invite []byte, advertise string, refused int) ([]result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	node, err := libp2p.New(
		libp2p.NoListenAddrs,
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Security(noise.ID, noise.New),
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.DisableMetrics(),
	)
	if err != nil {
		return nil, err
	}
	defer node.Close()
	if advertise != "" {
		// Nothing is said on it: that it is there names the role.
		id := protocol.ID("/midspan/role/" + advertise + "/1.0.0")
		node.SetStreamHandler(id, func(stream network.Stream) { stream.Reset() })
	}
	if err := node.Connect(ctx, server); err != nil {
		return nil, err
	}
	var results []result
	for range refused {
		results = append(results, ask(ctx, node, server.ID, statusProtocol, nil))
	}
	return append(results, ask(ctx, node, server.ID, helloProtocol, hello(invite))), nil
}

// ask sends one message and reads the stream to its end.
func ask(ctx context.Context, node host.Host, server peer.ID, id string, message []byte) result {
	found := result{Protocol: id}
	stream, err := node.NewStream(ctx, server, protocol.ID(id))
	if err != nil {
		found.Ended = "not opened: " + err.Error()
		return found
	}
	stream.SetDeadline(time.Now().Add(timeout))
	if _, err := stream.Write(frame(message)); err != nil {
		stream.Reset()
		found.Ended = "not written: " + err.Error()
		return found
	}
	found.Ended = read(bufio.NewReader(stream), &found)
	if found.Ended == "end" {
		stream.Close()
	} else {
		stream.Reset()
	}
	return found
}

// frame encodes varint(length of header) · header, with the message in the header and no payload.
func frame(message []byte) []byte {
	header := protowire.AppendTag(nil, 1, protowire.BytesType)
	header = protowire.AppendBytes(header, message)
	return append(binary.AppendUvarint(nil, uint64(len(header))), header...)
}

// hello encodes a Hello of a client that has not pinned the charter.
func hello(invite []byte) []byte {
	bytes := appendText(nil, 1, "go-libp2p")
	bytes = appendText(bytes, 2, "client")
	for _, name := range []string{"hello", "weights", "status", "train", "generate"} {
		entry := appendText(appendText(nil, 1, name), 2, "1.0.0")
		bytes = protowire.AppendBytes(protowire.AppendTag(bytes, 3, protowire.BytesType), entry)
	}
	return protowire.AppendBytes(protowire.AppendTag(bytes, 5, protowire.BytesType), invite)
}

func appendText(bytes []byte, field protowire.Number, text string) []byte {
	return protowire.AppendString(protowire.AppendTag(bytes, field, protowire.BytesType), text)
}

// read takes frames until the stream ends, and says how it did.
func read(from *bufio.Reader, found *result) string {
	for {
		length, err := binary.ReadUvarint(from)
		if errors.Is(err, io.EOF) {
			return "end"
		}
		if err != nil {
			return err.Error()
		}
		if length > maxFrameBytes {
			return fmt.Sprintf("a header of %d bytes", length)
		}
		header := make([]byte, length)
		if _, err := io.ReadFull(from, header); err != nil {
			return err.Error()
		}
		fields := fieldsOf(header)
		if failure, ok := fields[3].([]byte); ok {
			found.Answer = "failure"
			found.Code = textOf(fieldsOf(failure)[1])
		}
		if message, ok := fields[1].([]byte); ok {
			readAnswer(message, found)
		}
		payload := numberOf(fields[2])
		if payload > maxFrameBytes {
			return fmt.Sprintf("a payload of %d bytes", payload)
		}
		if _, err := io.CopyN(io.Discard, from, int64(payload)); err != nil {
			return err.Error()
		}
		found.CharterBytes += int(payload)
	}
}

// readAnswer reads a Welcome or a Refusal. Frames of the charter have an empty message.
func readAnswer(message []byte, found *result) {
	answer := fieldsOf(message)
	if welcome, ok := answer[1].([]byte); ok {
		found.Answer = "welcome"
		found.CharterLength = numberOf(fieldsOf(welcome)[3])
	}
	if refusal, ok := answer[2].([]byte); ok {
		fields := fieldsOf(refusal)
		found.Answer, found.Code, found.Field = "refusal", textOf(fields[1]), textOf(fields[2])
	}
}

// fieldsOf returns the last value of each field of a message: bytes or a number.
func fieldsOf(message []byte) map[protowire.Number]any {
	fields := map[protowire.Number]any{}
	for len(message) > 0 {
		number, kind, length := protowire.ConsumeTag(message)
		if length < 0 {
			return fields
		}
		message = message[length:]
		switch kind {
		case protowire.BytesType:
			value, size := protowire.ConsumeBytes(message)
			if size < 0 {
				return fields
			}
			fields[number], message = value, message[size:]
		case protowire.VarintType:
			value, size := protowire.ConsumeVarint(message)
			if size < 0 {
				return fields
			}
			fields[number], message = value, message[size:]
		default:
			return fields
		}
	}
	return fields
}

func bytesOf(value any) []byte {
	bytes, _ := value.([]byte)
	return bytes
}

func textOf(value any) string {
	return string(bytesOf(value))
}

func numberOf(value any) uint64 {
	number, _ := value.(uint64)
	return number
}
