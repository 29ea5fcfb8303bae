package main

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"google.golang.org/protobuf/encoding/protowire"
)

// golden is what test/protocols/wire/session.golden.json has: the bytes of a session, and all that its two sides drew.
type golden struct {
	Protocol       string `json:"protocol"`
	Charter        string `json:"charter"`
	ClientIdentity string `json:"clientIdentity"`
	ServerIdentity string `json:"serverIdentity"`
	ServerKemIkm   string `json:"serverKemIkm"`
	SessionID      string `json:"sessionId"`
	ClientToServer string `json:"clientToServer"`
	ServerToClient string `json:"serverToClient"`
}

// sealedFrame is a frame that was opened.
type sealedFrame struct {
	Sequence uint64 `json:"sequence"`
	// 1 message, 2 end, 3 failure.
	Kind    uint64 `json:"kind"`
	Message string `json:"message"`
	// Values of the first tensor, where it is of float32, and its shape.
	Values []float32 `json:"values,omitempty"`
	Shape  []uint64  `json:"shape,omitempty"`
}

// openSession reads a session's bytes as its server would, and the server's as its client would. It verifies both signatures.
func openSession(path string) (client, server []sealedFrame, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	var given golden
	if err := json.Unmarshal(text, &given); err != nil {
		return nil, nil, err
	}
	sent, err := hex.DecodeString(given.ClientToServer)
	if err != nil {
		return nil, nil, err
	}
	answered, err := hex.DecodeString(given.ServerToClient)
	if err != nil {
		return nil, nil, err
	}
	open, sent := handshakeMessage(sent)
	confirm, sent := handshakeMessage(sent)
	offer, answered := handshakeMessage(answered)

	clientKey, clientID, err := identity(given.ClientIdentity)
	if err != nil {
		return nil, nil, err
	}
	serverKey, serverID, err := identity(given.ServerIdentity)
	if err != nil {
		return nil, nil, err
	}
	session, kemKey := bytesOf(offer[1]), bytesOf(offer[2])
	transcriptText, err := json.Marshal([]string{
		"midspan/wire/1 transcript", textOf(open[1]), hex.EncodeToString(bytesOf(open[3])), clientID, serverID,
		hex.EncodeToString(session), hex.EncodeToString(bytesOf(open[2])), hex.EncodeToString(kemKey),
	})
	if err != nil {
		return nil, nil, err
	}
	transcript := sha256.Sum256(transcriptText)
	if ok, err := serverKey.GetPublic().Verify(append([]byte("midspan/wire/1 offer\x00"), transcript[:]...), bytesOf(offer[3])); !ok {
		return nil, nil, fmt.Errorf("the offer's signature is false: %w", err)
	}
	enc := bytesOf(confirm[1])
	confirmed := append(append([]byte("midspan/wire/1 confirm\x00"), transcript[:]...), enc...)
	if ok, err := clientKey.GetPublic().Verify(confirmed, bytesOf(confirm[2])); !ok {
		return nil, nil, fmt.Errorf("the confirmation's signature is false: %w", err)
	}

	ikm, err := hex.DecodeString(given.ServerKemIkm)
	if err != nil {
		return nil, nil, err
	}
	private, err := hpke.DHKEM(ecdh.X25519()).DeriveKeyPair(ikm)
	if err != nil {
		return nil, nil, err
	}
	if !bytes.Equal(private.PublicKey().Bytes(), kemKey) {
		return nil, nil, errors.New("the offer has another key than the one that follows from serverKemIkm")
	}
	recipient, err := hpke.NewRecipient(enc, private, hpke.HKDFSHA256(), hpke.ExportOnly(), transcript[:])
	if err != nil {
		return nil, nil, err
	}
	if client, err = openDirection(recipient, given.Protocol, session, "c2s", sent); err != nil {
		return nil, nil, err
	}
	server, err = openDirection(recipient, given.Protocol, session, "s2c", answered)
	return client, server, err
}

// openDirection opens all frames of one direction, each of one record.
func openDirection(recipient *hpke.Recipient, protocol string, session []byte, direction string, from []byte) ([]sealedFrame, error) {
	secret, err := recipient.Export("midspan/wire/1 "+direction, 32)
	if err != nil {
		return nil, err
	}
	key, err := hkdf.Key(sha256.New, secret, nil, "midspan/wire/1 key", 32)
	if err != nil {
		return nil, err
	}
	iv, err := hkdf.Key(sha256.New, secret, nil, "midspan/wire/1 iv", 12)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	sealed, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	boundText, err := json.Marshal([]string{"midspan/wire/1 records", protocol, hex.EncodeToString(session), direction})
	if err != nil {
		return nil, err
	}
	bound := sha256.Sum256(boundText)
	var frames []sealedFrame
	for counter := uint64(0); len(from) > 0; counter++ {
		length, size := binary.Uvarint(from)
		header := from[size : size+int(length)]
		from = from[size+int(length):]
		fields := fieldsOf(header)
		if !bytes.Equal(bytesOf(fields[1]), session[:8]) {
			return nil, errors.New("a frame is of another session")
		}
		recordLength := int(numberOf(fields[4])) + sealed.Overhead()
		nonce := bytes.Clone(iv)
		binary.BigEndian.PutUint64(nonce[4:], binary.BigEndian.Uint64(nonce[4:])^counter)
		// The record has the index 0 and is the last one of its frame.
		associated := append(append(bytes.Clone(bound[:]), header...), 0, 0, 0, 0, 1)
		body, err := sealed.Open(nil, nonce, from[:recordLength], associated)
		if err != nil {
			return nil, fmt.Errorf("frame %d of %s: %w", counter, direction, err)
		}
		from = from[recordLength:]
		frame := sealedFrame{Sequence: numberOf(fields[2]), Kind: numberOf(fields[3])}
		if frame.Kind == 1 {
			readBody(body, &frame)
		}
		frames = append(frames, frame)
	}
	return frames, nil
}

// readBody reads varint(length) · BodyHeader · tensors, each of which begins at a multiple of 8 bytes.
func readBody(body []byte, frame *sealedFrame) {
	length, size := binary.Uvarint(body)
	end := size + int(length)
	fields := fieldsOf(body[size:end])
	frame.Message = textOf(fieldsOf(bytesOf(fields[1]))[1])
	tensor := bytesOf(fields[2])
	if tensor == nil {
		return
	}
	shape := bytesOf(fieldsOf(tensor)[2])
	values := 1
	for len(shape) > 0 {
		dimension, size := protowire.ConsumeVarint(shape)
		frame.Shape = append(frame.Shape, dimension)
		values *= int(dimension)
		shape = shape[size:]
	}
	start := (end + 7) / 8 * 8
	for i := range values {
		frame.Values = append(frame.Values, math.Float32frombits(binary.LittleEndian.Uint32(body[start+4*i:])))
	}
}

// handshakeMessage returns the fields of the message in the first control frame, and what follows the frame.
func handshakeMessage(from []byte) (map[protowire.Number]any, []byte) {
	length, size := binary.Uvarint(from)
	end := size + int(length)
	return fieldsOf(bytesOf(fieldsOf(from[size:end])[1])), from[end:]
}

func identity(text string) (crypto.PrivKey, string, error) {
	bytes, err := hex.DecodeString(text)
	if err != nil {
		return nil, "", err
	}
	key, err := crypto.UnmarshalPrivateKey(bytes)
	if err != nil {
		return nil, "", err
	}
	id, err := peer.IDFromPrivateKey(key)
	return key, id.String(), err
}
